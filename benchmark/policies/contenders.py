"""The routers that are compared: ours with each policy, and sglang-router."""

from collections.abc import Sequence
from pathlib import Path

from sglang_memserve.bench.clusters import Builder, System
from sglang_memserve.bench.peers import CACHE_AWARE, ROUTER_NAME, StockPeers
from sglang_memserve.bench.serving.arms import Arm
from sglang_memserve.cluster.spec import InstanceSpec

COST_MODEL, SESSION, PROMPT_TREE, LEAST_LOAD = "cost_model", "session", "prompt_tree", "least_load"
PEER = ROUTER_NAME
POLICIES = {
    COST_MODEL: "the least of queue + fetch + exec",
    SESSION: "a session stays where it is",
    PROMPT_TREE: "whoever has the longest prefix",
    LEAST_LOAD: "whoever has the fewest tokens before it",
    "round_robin": "each in turn",
    "random": "anybody",
    "power_of_two": "of two at random, the one with fewer tokens",
}
BY_TOKENS = (COST_MODEL, PROMPT_TREE)
DEFAULT = (COST_MODEL, SESSION, PROMPT_TREE, LEAST_LOAD)


def arm(name: str) -> Arm:
    """As `memserve bench` has it: a system that runs. `name`: a policy's, or PEER."""
    about = f"sglang-router's {CACHE_AWARE}" if name == PEER else f"our router: {POLICIES[name]}"
    return Arm(name, about, "running")


def target_of(
    name: str,
    builder: Builder,
    instances: Sequence[InstanceSpec],
    peers: StockPeers,
    profile: Path | None = None,
) -> System:
    """`instances` with this router before them; it is to be started. `profile`: for cost_model."""
    if name == PEER:
        return builder.stock_routed(name, instances, peers, CACHE_AWARE)
    priced = ("--profile", str(profile)) if profile is not None and name == COST_MODEL else ()
    return builder.routed(name, instances, "--policy", name, *priced)
