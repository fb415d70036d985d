import argparse
import os
import sys
from types import SimpleNamespace

import pytest

from sglang_memserve import launch_server
from sglang_memserve.launch_server import check_environment, value_of, with_defaults


def parsed(argv, *, cuda=False, caching="3"):
    """What argparse, which SGLang uses, makes of the result."""
    parser = argparse.ArgumentParser()
    for flag in ("device", "attention-backend", "page-size", "disaggregation-mode", "model-path"):
        parser.add_argument(f"--{flag}")
    parser.add_argument("--disaggregation-transfer-backend")
    parser.add_argument("--radix-cache-backend")
    parser.add_argument("--optimistic-prefill-attempts")
    parser.add_argument("--disaggregation-decode-retraction-backup")
    for flag in ("cuda-graph", "overlap-schedule", "radix-cache"):
        parser.add_argument(f"--disable-{flag}", action="store_true")
    for flag in ("sleep-on-idle", "enable-cache-report", "disaggregation-decode-enable-radix-cache"):
        parser.add_argument(f"--{flag}", action="store_true")
    return parser.parse_args(with_defaults(argv, cuda=cuda, caching=caching))


def test_a_host_without_a_gpu():
    args = parsed([])
    assert (args.device, args.attention_backend, args.page_size) == ("cpu", "torch_native", "16")
    assert args.disable_cuda_graph
    assert not args.disable_overlap_schedule
    assert args.sleep_on_idle
    assert args.enable_cache_report
    assert args.disaggregation_transfer_backend is None


def test_a_gpu_host_keeps_sglangs_own_choices():
    args = parsed([], cuda=True)
    assert (args.device, args.attention_backend) == (None, None)
    assert not args.disable_overlap_schedule
    assert args.page_size == "16"


@pytest.mark.parametrize("given", [["--page-size", "64"], ["--page-size=64"]])
def test_what_the_user_gives_wins(given):
    assert parsed(given).page_size == "64"


def test_another_attention_can_be_asked_for():
    assert parsed(["--attention-backend", "memserve_cpu"]).attention_backend == "memserve_cpu"


@pytest.mark.parametrize("mode", [["--disaggregation-mode", "decode"], ["--disaggregation-mode=decode"]])
def test_decode_gets_our_transfer_and_its_own_cache(mode):
    args = parsed(mode)
    assert args.disaggregation_transfer_backend == "memserve"
    assert args.disaggregation_decode_enable_radix_cache
    assert args.disaggregation_decode_retraction_backup is None


def test_prefill_gets_our_transfer():
    args = parsed(["--disaggregation-mode", "prefill"])
    assert args.disaggregation_transfer_backend == "memserve"
    assert not args.disaggregation_decode_enable_radix_cache


@pytest.mark.parametrize(
    ("caching", "prefill_keeps", "decode_keeps"),
    [("basic", False, False), ("1", True, False), ("2", True, True), ("3", True, True)],
)
def test_the_milestones_say_who_keeps_kv(caching, prefill_keeps, decode_keeps):
    for role, keeps in (("prefill", prefill_keeps), ("decode", decode_keeps)):
        args = parsed(["--disaggregation-mode", role], caching=caching)
        assert args.disable_radix_cache != keeps
        assert args.radix_cache_backend == ("memserve" if keeps else None)
        assert args.disaggregation_decode_enable_radix_cache == (keeps and role == "decode")
        only_without = "cpu_tensor" if role == "decode" and not keeps else None
        assert args.disaggregation_decode_retraction_backup == only_without


def test_a_colocated_server_takes_part_unless_it_has_another_cache():
    assert parsed([]).radix_cache_backend == "memserve"
    assert parsed([], caching="1").radix_cache_backend == "memserve"
    assert parsed([], caching="basic").disable_radix_cache
    for other in ("--disable-radix-cache", "--enable-hierarchical-cache", "--radix-cache-backend=other"):
        assert "memserve" not in with_defaults([other], cuda=False)


def test_another_transfer_backend_can_be_asked_for():
    argv = ["--disaggregation-mode", "prefill", "--disaggregation-transfer-backend", "mooncake"]
    assert parsed(argv).disaggregation_transfer_backend == "mooncake"


def test_decode_without_a_cache_keeps_retracted_kv_on_the_cpu():
    argv = ["--disaggregation-mode", "decode", "--disable-radix-cache"]
    args = parsed(argv)
    assert not args.disaggregation_decode_enable_radix_cache
    assert args.disaggregation_decode_retraction_backup == "cpu_tensor"
    assert parsed(argv, cuda=True).disaggregation_decode_retraction_backup is None


def test_the_last_value_counts():
    assert value_of(["--tp=1", "--x", "--tp", "4"], "--tp", "--tp-size") == "4"
    assert value_of(["--tp"], "--tp") is None


@pytest.mark.parametrize(
    "environ", [{"SGLANG_PLATFORM": "other"}, {"SGLANG_PLUGINS": "other"}, {"SGLANG_PLUGINS": "memserve"}]
)
def test_an_environment_that_leaves_the_plugin_out_is_refused(environ):
    with pytest.raises(OSError, match=next(iter(environ))):
        check_environment(environ)


@pytest.mark.parametrize(
    "environ", [{}, {"SGLANG_PLATFORM": "memserve_cpu"}, {"SGLANG_PLUGINS": "memserve, memserve_cpu, other"}]
)
def test_other_environments_are_fine(environ):
    check_environment(environ)


@pytest.fixture
def served(monkeypatch, tmp_path):
    """main() with given flags up to where SGLang would serve; returns the environment that it would see."""
    seen = []
    modules = {
        "torch": {"cuda": SimpleNamespace(is_available=lambda: False)},
        "sglang.launch_server": {"run_server": lambda _: seen.append(dict(os.environ))},
        "sglang.srt.plugins": {"load_plugins": lambda: None},
        "sglang.srt.server_args": {"prepare_server_args": lambda argv: argv},
        "sglang.srt.utils": {"kill_process_tree": lambda *_, **__: None},
    }
    for name, content in modules.items():
        monkeypatch.setitem(sys.modules, name, SimpleNamespace(**content))
    monkeypatch.setattr(sys, "argv", ["launch_server"])
    monkeypatch.setattr(launch_server.os, "environ", {})

    def serve(*argv, environ=()):
        os.environ.update(environ)
        assert launch_server.main(["--model-path", str(tmp_path), *argv]) == 0
        return seen.pop()

    return serve


@pytest.mark.parametrize(
    ("argv", "environ", "address"),
    [
        ([], {}, "127.0.0.1"),
        (["--host", "::1"], {}, "127.0.0.1"),
        (["--host=localhost"], {}, "127.0.0.1"),
        (["--host", "0.0.0.0"], {}, None),
        (["--host", "server.example"], {}, None),
        ([], {"SGLANG_HOST_IP": "10.0.0.1"}, "10.0.0.1"),
    ],
)
def test_what_listens_on_the_loopback_names_the_loopback_to_its_peers(served, argv, environ, address):
    assert served(*argv, environ=environ).get("SGLANG_HOST_IP") == address


@pytest.mark.parametrize(
    ("environ", "seconds"), [({}, "1"), ({"SGLANG_REQUEST_STATE_WAIT_TIMEOUT": "9"}, "9")]
)
def test_a_client_that_left_is_noticed_within_a_second(served, environ, seconds):
    assert served(environ=environ)["SGLANG_REQUEST_STATE_WAIT_TIMEOUT"] == seconds


@pytest.mark.parametrize(
    ("argv", "offline"),
    [([], "1"), (["--lora-paths", "a=org/adapter"], None), (["--tokenizer-path=org/tokenizer"], None)],
)
def test_the_hub_is_left_alone_only_if_nothing_may_be_on_it(served, argv, offline):
    assert served(*argv).get("HF_HUB_OFFLINE") == offline


@pytest.mark.parametrize("role", ["prefill", "decode"])
def test_a_split_beyond_the_loopback_needs_a_cluster_key_at_once(served, tmp_path, capsys, role):
    argv = ["--model-path", str(tmp_path), "--disaggregation-mode", role, "--host", "10.0.0.1"]
    assert launch_server.main(argv) == 2
    said = capsys.readouterr().err
    assert "10.0.0.1" in said
    assert "MEMSERVE_CLUSTER_KEY_FILE" in said
    key = tmp_path / "cluster.key"
    key.write_text("k" * 32)
    key.chmod(0o640)
    assert launch_server.main([*argv, "--memserve-cluster-key-file", str(key)]) == 2
    assert "0640" in capsys.readouterr().err
    key.chmod(0o600)
    served(*argv[2:], "--memserve-cluster-key-file", str(key))
    assert capsys.readouterr().err == ""
    served(*argv[2:], environ={"MEMSERVE_INSECURE": "1", "MEMSERVE_CLUSTER_KEY_FILE": ""})
    assert "insecure" in capsys.readouterr().err
