"""How an instance is chosen, by the name that `--policy` takes."""

from collections.abc import Callable

from router.policies.base import Policy, Route
from router.policies.round_robin import RoundRobin

POLICIES: dict[str, Callable[[], Policy]] = {"round_robin": RoundRobin}

__all__ = ["POLICIES", "Policy", "RoundRobin", "Route"]
