from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from router.instances.candidates import Candidates
from router.instances.instance import Instance, Role
from router.policies.base import Route
from router.prompt.request import RoutingRequest


class RoundRobin:
    """Each healthy instance in turn.

    Prefill and decode instances rotate apart from each other. As many pairs as can work side by side (the
    smaller of the two numbers) take turns with the colocated instances.
    """

    needs_tokens = False
    needs_estimates = False

    def __init__(self) -> None:
        self._turns: Counter[str] = Counter()

    def route(self, candidates: Candidates, request: RoutingRequest) -> Route | None:
        prefill, decode = candidates.healthy(Role.PREFILL), candidates.healthy(Role.DECODE)
        pairs = 0 if request.colocated_only else min(len(prefill), len(decode))
        seats: list[Instance | None] = [*candidates.healthy(Role.COLOCATED), *[None] * pairs]
        if not seats:
            return None
        if colocated := self._next("seat", seats):
            return Route(None, colocated)
        first, second = self._next("prefill", prefill), self._next("decode", decode)
        assert second is not None
        return Route(first, second)

    def _next(self, rotation: str, waiting: Sequence[Instance | None]) -> Instance | None:
        turn = self._turns[rotation]
        self._turns[rotation] += 1
        return waiting[turn % len(waiting)]
