from __future__ import annotations

import random
from collections.abc import Sequence

from router.instances.candidates import Candidates
from router.instances.instance import Instance
from router.policies.base import Route, least_loaded, route_by
from router.prompt.request import RoutingRequest


class PowerOfTwo:
    """Of two drawn at random, the one with fewer tokens charged: many routers do not herd onto one."""

    needs_tokens = False
    needs_estimates = False

    def __init__(self, rng: random.Random | None = None) -> None:
        self._rng = rng or random.Random()

    def route(self, candidates: Candidates, request: RoutingRequest) -> Route | None:
        return route_by(candidates, request, self._lighter_of_two)

    def _lighter_of_two(self, instances: Sequence[Instance], partner: Instance | None) -> Instance:
        return least_loaded(self._rng.sample(instances, min(2, len(instances))), partner, self._rng)
