import socket

import pytest

from mempool.security.cluster_key import ClusterKey
from router.config.explain import ConfigError
from sglang_memserve.cluster import plan, share
from sglang_memserve.cluster.config import ClusterConfig
from sglang_memserve.cluster.errors import ClusterError
from sglang_memserve.cluster.plan import ports_for, sizes_pool
from sglang_memserve.cluster.ports import PortPicker
from sglang_memserve.cluster.spec import InstanceSpec, key_env, router_argv, router_env, url_of
from sglang_memserve.model import ModelInfo

GB = 1_000_000_000
MODEL = ModelInfo("/models/tiny", context_length=8192, kv_bytes_per_token=23040)


@pytest.fixture(autouse=True)
def machine(monkeypatch):
    monkeypatch.setattr(plan, "available_memory", lambda: 64 * GB)
    monkeypatch.setattr(share, "available_cores", lambda: 4)
    monkeypatch.setattr(share, "visible_gpus", lambda: [])


def plan_instances(config, model):
    with ports_for(config) as ports:
        return plan.plan_instances(config, model, ports)


def flag(argv, name):
    return argv[argv.index(name) + 1] if name in argv else None


def test_one_prefill_and_one_decode_by_default(free_port):
    prefill, decode = plan_instances(ClusterConfig(port=free_port()), MODEL)
    assert (prefill.name, decode.name) == ("prefill-0", "decode-0")
    assert flag(prefill.argv(), "--disaggregation-mode") == "prefill"
    assert flag(decode.argv(), "--disaggregation-mode") == "decode"
    assert flag(prefill.argv(), "--disaggregation-bootstrap-port") == str(prefill.bootstrap_port)
    assert flag(decode.argv(), "--disaggregation-bootstrap-port") is None


def test_a_colocated_instance_is_a_plain_server(free_port):
    (only,) = plan_instances(ClusterConfig(colocated=1, port=free_port()), MODEL)
    assert flag(only.argv(), "--disaggregation-mode") is None


def test_all_ports_differ_and_none_is_taken(free_port):
    router = free_port()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", router + 1))
        taken.listen()
        specs = plan_instances(ClusterConfig(prefill=2, decode=2, colocated=1, port=router), MODEL)
    ports = [port for spec in specs for port in (spec.port, spec.bootstrap_port) if port]
    assert len(set(ports)) == len(ports) == 7
    assert not {router, router + 1} & set(ports)


def test_the_routers_port_must_be_free(free_port):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ClusterError, match=f"port {port} .* in use"):
            plan_instances(ClusterConfig(port=port), MODEL)


def test_ports_run_out_with_a_word():
    with pytest.raises(ClusterError, match="no free port"):
        PortPicker("127.0.0.1", 65536).pick()


def test_ports_stay_held_until_the_end(free_port):
    """From outgoing connections, and from other clusters; but not from the server that they are for."""
    first = free_port()
    with PortPicker("127.0.0.1", first) as ports, PortPicker("127.0.0.1", first) as of_another_cluster:
        mine, theirs = ports.pick(), of_another_cluster.pick()
        assert mine != theirs
        with socket.socket() as outgoing, pytest.raises(OSError, match="in use"):
            outgoing.bind(("127.0.0.1", mine))
        with socket.create_server(("127.0.0.1", mine)):
            pass
    with PortPicker("127.0.0.1", first) as ports:
        assert ports.pick() == mine


def test_instances_stay_on_the_loopback_when_the_router_does_not(free_port):
    spec, *_ = plan_instances(ClusterConfig(host="0.0.0.0", port=free_port()), MODEL)
    assert flag(spec.argv(), "--host") == "127.0.0.1"


@pytest.mark.parametrize(("cores", "instances", "threads"), [(4, 2, 2), (4, 3, 1), (2, 5, 1), (1, 1, 1)])
def test_threads_are_disjoint_while_there_are_cores(cores, instances, threads):
    assert share.threads_each(cores, instances) == threads


def test_the_users_threads_and_pool_win(free_port):
    config = ClusterConfig(port=free_port(), threads=7, max_total_tokens=4096, args=("--page-size", "32"))
    spec, _ = plan_instances(config, MODEL)
    assert spec.env()["OMP_NUM_THREADS"] == "7"
    assert flag(spec.argv(), "--max-total-tokens") == "4096"
    assert spec.argv()[-2:] == ["--page-size", "32"]


def test_the_pool_is_a_share_of_free_memory_in_whole_pages():
    tokens = share.pool_tokens(11 * GB, instances=2, token_bytes=23040, context=8192, page=16)
    assert tokens == int(1 * GB / 23040) // 16 * 16


def test_the_pool_has_a_limit():
    assert share.pool_tokens(900 * GB, 1, 23040, 8192, 16) == share.MAX_POOL_TOKENS


def test_a_context_longer_than_the_limit_still_fits():
    assert share.pool_tokens(500 * GB, 2, 32768, 131_070, 16) == 131_072


def test_the_weights_are_taken_off_first():
    tokens = share.pool_tokens(11 * GB, 1, 23040, 8192, 16, weight_bytes=6 * GB)
    assert tokens == int(0.5 * GB / 23040) // 16 * 16


def test_too_little_memory_is_refused_with_the_numbers():
    with pytest.raises(ClusterError, match=r"3 instances: 13\.6 GB .* 4\.5 GB .* 0\.19 GB .* 8192 tokens"):
        share.pool_tokens(int(13.6 * GB), 3, 23040, 8192, 16)


def test_a_shorter_context_needs_less(free_port, monkeypatch):
    monkeypatch.setattr(plan, "available_memory", lambda: 9 * GB + 2 * 30_000_000)
    config = ClusterConfig(port=free_port(), args=("--context-length=1024",))
    assert plan_instances(config, MODEL)[0].max_total_tokens >= 1024


@pytest.mark.parametrize(
    ("limit", "cores"), [("max 100000", 8), ("250000 100000", 3), ("50000 100000", 1), ("9900000 100000", 8)]
)
def test_cores_are_what_the_container_allows(tmp_path, monkeypatch, limit, cores):
    monkeypatch.undo()
    monkeypatch.setattr(share.os, "sched_getaffinity", lambda _: range(8))
    (tmp_path / "cpu.max").write_text(f"{limit}\n")
    assert share.available_cores(tmp_path) == cores


@pytest.mark.parametrize(
    ("config", "gpus", "sizes"),
    [
        ({}, [], True),
        ({}, [0, 1], False),
        ({"max_total_tokens": 4096}, [], False),
        ({"args": ("--max-total-tokens=4096",)}, [], False),
    ],
)
def test_the_model_is_asked_for_only_where_the_pool_follows_from_it(
    free_port, monkeypatch, config, gpus, sizes
):
    monkeypatch.setattr(share, "visible_gpus", lambda: gpus)
    config = ClusterConfig(port=free_port(), **config)
    assert sizes_pool(config) == sizes
    spec, _ = plan_instances(config, MODEL if sizes else None)
    assert spec.max_total_tokens == (share.MAX_POOL_TOKENS if sizes else config.max_total_tokens)


@pytest.mark.parametrize("flag", ["--tp", "--context-length", "--page-size"])
@pytest.mark.parametrize("value", ["x", "-1", "0", "1.5"])
def test_a_flag_for_sglang_that_the_plan_needs_must_be_a_number(free_port, flag, value):
    with pytest.raises(ClusterError, match=f"{flag} {value}: give a whole number"):
        plan_instances(ClusterConfig(port=free_port(), args=(flag, value)), MODEL)


def test_each_instance_gets_gpus_of_its_own(free_port, monkeypatch):
    monkeypatch.setattr(share, "visible_gpus", lambda: [2, 3, 5, 7])
    specs = plan_instances(ClusterConfig(port=free_port(), args=("--tp", "2")), MODEL)
    assert [spec.env()["CUDA_VISIBLE_DEVICES"] for spec in specs] == ["2,3", "5,7"]
    assert all(spec.max_total_tokens is None for spec in specs)


def test_too_few_gpus_are_refused(free_port, monkeypatch):
    monkeypatch.setattr(share, "visible_gpus", lambda: [0])
    with pytest.raises(ClusterError, match="need 2, 1 are visible"):
        plan_instances(ClusterConfig(port=free_port()), MODEL)


def test_the_router_gets_every_instance(free_port):
    specs = plan_instances(ClusterConfig(prefill=1, decode=2, colocated=1, port=free_port()), MODEL)
    argv = router_argv("127.0.0.1", 30000, specs)
    prefill, first, second, colocated = specs
    at = argv.index("--prefill")
    assert argv[at + 1 : at + 3] == [prefill.url, str(prefill.bootstrap_port)]
    assert [argv[i + 1] for i, arg in enumerate(argv) if arg == "--decode"] == [first.url, second.url]
    assert argv[-2:] == ["--worker-urls", colocated.url]


@pytest.mark.parametrize(
    ("host", "url"),
    [("127.0.0.1", "http://127.0.0.1:1"), ("0.0.0.0", "http://127.0.0.1:1"), ("::", "http://[::1]:1")],
)
def test_the_url_is_one_that_can_be_reached(host, url):
    assert url_of(host, 1) == url


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"prefill": 1}, "--prefill 1 --decode 0"),
        ({"decode": -1, "prefill": 1}, "from 0 up"),
        ({"port": 0}, "--port 0"),
        ({"threads": 0}, "--threads 0"),
        ({"start_timeout": -1.0}, "--start-timeout -1.0"),
    ],
)
def test_what_makes_no_sense_is_refused(values, words):
    with pytest.raises(ConfigError, match=words):
        ClusterConfig(**values)


def test_a_key_is_in_environments_and_in_no_command_line_and_no_repr():
    spec = InstanceSpec(role="decode", index=0, port=1, api_key="s3cret")
    assert spec.env()["MEMSERVE_INSTANCE_API_KEY"] == "s3cret"
    assert "MEMSERVE_INSTANCE_API_KEY" not in InstanceSpec(role="decode", index=0, port=1).env()
    assert {"MEMSERVE_ROUTER_API_KEY", "MEMSERVE_ROUTER_WORKER_API_KEY"} <= router_env("s3cret").keys()
    assert set(router_env(None)) == {"PYTHONUNBUFFERED"}
    descriptions = (spec, spec.argv(), router_argv("127.0.0.1", 2, [spec]))
    assert "s3cret" not in repr(descriptions)


def test_every_process_of_a_cluster_has_its_key_in_the_environment_alone():
    key = ClusterKey("k" * 40)
    spec = InstanceSpec(role="prefill", index=0, port=1, cluster_key=key)
    for environ in (spec.env(), router_env(None, cluster_key=key), key_env(key)):
        assert ClusterKey.from_environment(environ) == key
    assert "k" * 40 not in f"{spec} {spec.argv()}"
