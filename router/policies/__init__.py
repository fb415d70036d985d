"""How an instance is chosen, by the name that `--policy` takes."""

from collections.abc import Callable

from router.policies.apart import Apart
from router.policies.at_random import AtRandom
from router.policies.base import Policy, Route
from router.policies.least_load import LeastLoad
from router.policies.power_of_two import PowerOfTwo
from router.policies.prompt_tree import LongestPrefix
from router.policies.round_robin import RoundRobin
from router.policies.session import Session
from router.trees import PromptTree

POLICIES: dict[str, Callable[[PromptTree], Policy]] = {
    "round_robin": lambda _: RoundRobin(),
    "random": lambda _: AtRandom(),
    "power_of_two": lambda _: PowerOfTwo(),
    "least_load": lambda _: LeastLoad(),
    "session": lambda _: Session(),
    "prompt_tree": LongestPrefix,
}
# What sglang_router calls them.
ALIASES = {"cache_aware": "prompt_tree"}

__all__ = [
    "ALIASES",
    "POLICIES",
    "Apart",
    "AtRandom",
    "LeastLoad",
    "LongestPrefix",
    "Policy",
    "PowerOfTwo",
    "RoundRobin",
    "Route",
    "Session",
]
