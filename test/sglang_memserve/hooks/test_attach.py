"""What a scheduler's caching agent is started with."""

from types import SimpleNamespace

import pytest
import torch

from mempool.encryption import Encryption
from mempool.security.access import ClusterAccess
from sglang_memserve.caching.config import CachingAgentConfig
from sglang_memserve.hooks import caching as hooks
from sglang_memserve.hooks.scheduler_state import scheduler_state

BUFFERS = SimpleNamespace(device=torch.device("cpu"))


@pytest.fixture
def scheduler(monkeypatch):
    """One with our tree, and an agent that is the pair of its config and its collaborators."""
    for name in ("CACHING", "DRAM", "TRANSFER", "MAX_BANDWIDTH", "REGISTRIES"):
        monkeypatch.delenv(f"MEMSERVE_{name}", raising=False)
    monkeypatch.setattr("sglang_memserve.caching.agent.CachingAgent", lambda config, **parts: (config, parts))
    monkeypatch.setattr("sglang_memserve.kv_pool.paged_buffers", lambda pool: BUFFERS)
    monkeypatch.setattr("sglang_memserve.model.digest.model_digest", lambda path: f"digest of {path}")
    monkeypatch.setattr(hooks, "_is_ours", lambda tree: tree == "ours")
    return SimpleNamespace(
        server_args=SimpleNamespace(tp_size=1, port=30001, disaggregation_mode="decode", model_path="m"),
        tree_cache="ours",
        tokenizer=SimpleNamespace(decode="decode"),
        forward_stream="stream",
        enable_overlap=True,
    )


def attach(scheduler):
    return hooks.attach(scheduler, "pool", "10.0.0.1", SimpleNamespace(wake="wake"))


def test_the_agent_has_the_instances_options(scheduler, monkeypatch):
    monkeypatch.setenv("MEMSERVE_CACHING", "2")
    monkeypatch.setenv("MEMSERVE_DRAM", "1GiB")
    monkeypatch.setenv("MEMSERVE_MAX_BANDWIDTH", "100MiB")
    monkeypatch.setenv("MEMSERVE_ENCRYPT", "on")
    monkeypatch.setenv("MEMSERVE_REGISTRIES", "tcp://10.0.0.9:7000")
    config, parts = attach(scheduler)
    assert config == CachingAgentConfig(
        name="10.0.0.1:30001",
        role="decode",
        host="10.0.0.1",
        dram="1GiB",
        writes_back=False,
        registries=["tcp://10.0.0.9:7000"],
        namespace={"model": "digest of m"},
        max_bandwidth=100 << 20,
        encrypt=Encryption.ON,
        access=ClusterAccess(name="10.0.0.1:30001"),
    )
    assert parts == {
        "tree": "ours",
        "buffers": (BUFFERS, BUFFERS),
        "forward_stream": "stream",
        "wake": "wake",
        "decode": "decode",
    }
    assert scheduler_state(scheduler).agent == (config, parts)


def test_by_default_answers_are_written_back(scheduler):
    config, _ = attach(scheduler)
    assert (config.writes_back, config.dram, config.max_bandwidth) == (True, "256MiB", 0)


def test_without_a_tokenizer_no_text_is_decoded(scheduler):
    scheduler.tokenizer = None
    assert attach(scheduler)[1]["decode"] is None


@pytest.mark.parametrize("change", ["another tree", "several ranks"])
def test_another_tree_and_several_ranks_have_no_agent(scheduler, change):
    if change == "another tree":
        scheduler.tree_cache = "theirs"
    else:
        scheduler.server_args.tp_size = 2
    assert attach(scheduler) is None
    assert scheduler_state(scheduler).agent is None
    assert scheduler_state(scheduler).wakeup is not None
