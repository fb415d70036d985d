"""How an instance is chosen, by the name that `--policy` takes."""

from __future__ import annotations

import random
from collections.abc import Mapping
from types import MappingProxyType
from typing import Protocol

from router.cost.estimator import CostEstimator
from router.policies.at_random import AtRandom
from router.policies.base import Policy, Route
from router.policies.cost_model import CostModelPolicy
from router.policies.least_load import LeastLoad
from router.policies.per_role import PerRolePolicy
from router.policies.power_of_two import PowerOfTwo
from router.policies.prompt_tree import LongestPrefix
from router.policies.round_robin import RoundRobin
from router.policies.session import SessionAffinity
from router.prefix_tree import PromptTree


class PolicyFactory(Protocol):
    """Without `rng`, the policy draws from a generator of its own."""

    def __call__(
        self, tree: PromptTree, estimator: CostEstimator, rng: random.Random | None = None, /
    ) -> Policy: ...


POLICIES: Mapping[str, PolicyFactory] = MappingProxyType(
    {
        "cost_model": CostModelPolicy,
        "prompt_tree": lambda tree, _, rng=None: LongestPrefix(tree, rng),
        "session": lambda _, __, rng=None: SessionAffinity(rng),
        "least_load": lambda _, __, rng=None: LeastLoad(rng),
        "power_of_two": lambda _, __, rng=None: PowerOfTwo(rng),
        "random": lambda _, __, rng=None: AtRandom(rng),
        "round_robin": lambda *_: RoundRobin(),
    }
)

__all__ = [
    "POLICIES",
    "AtRandom",
    "CostModelPolicy",
    "LeastLoad",
    "LongestPrefix",
    "PerRolePolicy",
    "Policy",
    "PolicyFactory",
    "PowerOfTwo",
    "RoundRobin",
    "Route",
    "SessionAffinity",
]
