"""What a benchmark's servers, and those of test/e2e, run on and with."""

import pytest
from e2e_engine import Engine

from benchmark.device import gpus_of
from sglang_memserve.bench.clusters import EngineSpec
from sglang_memserve.cluster import share
from sglang_memserve.cluster.errors import UsageError


class Ports:
    def pick(self):
        return 20_000


@pytest.fixture
def visible(monkeypatch):
    return lambda *gpus: monkeypatch.setattr(share, "visible_gpus", lambda: list(gpus))


def test_servers_get_the_gpus_that_are_there(visible):
    visible(3, 4)
    assert list(gpus_of("auto")) == list(gpus_of("cuda")) == [3, 4]
    with pytest.raises(UsageError, match=r"--device cpu: 2 GPUs .* CUDA_VISIBLE_DEVICES"):
        gpus_of("cpu")


def test_without_a_gpu_servers_are_on_the_cpu(visible):
    visible()
    assert list(gpus_of("auto")) == list(gpus_of("cpu")) == []
    with pytest.raises(UsageError, match="--device cuda: no NVIDIA GPU"):
        gpus_of("cuda")


@pytest.mark.parametrize(
    ("gpus", "prefill", "decode"), [((), None, None), ((5,), "5", "5"), ((5, 6, 7), "5", "6")]
)
def test_decode_has_a_gpu_of_its_own_where_there_are_two(gpus, prefill, decode):
    engine = EngineSpec("/models/m", "flashinfer", gpus=gpus)
    envs = [engine.instance(role, Ports()).env() for role in ("prefill", "decode", "colocated")]
    assert [env.get("CUDA_VISIBLE_DEVICES") for env in envs] == [prefill, decode, prefill]


def test_on_a_gpu_both_stock_and_ours_have_what_pytest_was_given(tmp_path):
    engine = Engine(gpus=(0,), page_size=64, attention_backend="fa3", model=str(tmp_path))
    for flags in (engine.stock_flags, engine.passed_on):
        for flag, value in (("--page-size", "64"), ("--attention-backend", "fa3"), ("--dtype", "bfloat16")):
            assert flags[flags.index(flag) + 1] == value
        assert "cpu" not in flags
    assert engine.up_flags == ["--model", str(tmp_path)]
    assert engine.stock_env == {"CUDA_VISIBLE_DEVICES": "0"}


def test_instances_share_the_gpus_where_these_are_too_few(visible, monkeypatch):
    engine = Engine(gpus=(0, 1))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", engine.up_env["CUDA_VISIBLE_DEVICES"])
    places = [int(gpu) for gpu in engine.up_env["CUDA_VISIBLE_DEVICES"].split(",")]
    assert share.gpus_each(places, [1, 1, 1, 1]) == [(0,), (1,), (0,), (1,)]


def test_on_a_cpu_servers_are_left_to_the_launcher(tmp_path):
    engine = Engine(model=str(tmp_path))
    assert engine.passed_on == ["--page-size", "16", "--served-model-name", "SmolLM2-135M-Instruct"]
    assert (engine.up_env, engine.stock_env) == ({}, {})
    assert engine.stock_flags[engine.stock_flags.index("--attention-backend") + 1] == "torch_native"
