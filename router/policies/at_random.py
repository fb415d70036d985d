from __future__ import annotations

import random
from collections.abc import Sequence

from router.instances.candidates import Candidates
from router.instances.instance import Instance
from router.policies.base import Route, route_by
from router.prompt.request import RoutingRequest


class AtRandom:
    """Any healthy instance, each as likely as the next."""

    needs_tokens = False
    needs_estimates = False

    def __init__(self, rng: random.Random | None = None) -> None:
        self._rng = rng or random.Random()

    def route(self, candidates: Candidates, request: RoutingRequest) -> Route | None:
        return route_by(candidates, request, self._drawn)

    def _drawn(self, instances: Sequence[Instance], _: Instance | None) -> Instance:
        return self._rng.choice(instances)
