"""How an instance is chosen, by the name that `--policy` takes."""

from collections.abc import Callable

from router.cost.estimator import CostEstimator
from router.policies.at_random import AtRandom
from router.policies.base import Policy, Route
from router.policies.cost_model import CostModelPolicy
from router.policies.least_load import LeastLoad
from router.policies.per_role import PerRolePolicy
from router.policies.power_of_two import PowerOfTwo
from router.policies.prompt_tree import LongestPrefix
from router.policies.round_robin import RoundRobin
from router.policies.session import Session
from router.prefix_tree import PromptTree

POLICIES: dict[str, Callable[[PromptTree, CostEstimator], Policy]] = {
    "cost_model": CostModelPolicy,
    "prompt_tree": lambda tree, _: LongestPrefix(tree),
    "session": lambda *_: Session(),
    "least_load": lambda *_: LeastLoad(),
    "power_of_two": lambda *_: PowerOfTwo(),
    "random": lambda *_: AtRandom(),
    "round_robin": lambda *_: RoundRobin(),
}

__all__ = [
    "POLICIES",
    "AtRandom",
    "CostModelPolicy",
    "LeastLoad",
    "LongestPrefix",
    "PerRolePolicy",
    "Policy",
    "PowerOfTwo",
    "RoundRobin",
    "Route",
    "Session",
]
