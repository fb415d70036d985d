from __future__ import annotations

import random
from collections.abc import Sequence

from router.instances.candidates import Candidates
from router.instances.instance import Instance
from router.policies.base import Route, route_by
from router.policies.least_load import lightest
from router.prompt.request import RoutingRequest


class PowerOfTwo:
    """Of two drawn at random, the one that has fewer tokens charged: many routers do not herd onto one."""

    needs_tokens = False
    needs_prices = False

    def route(self, candidates: Candidates, ask: RoutingRequest) -> Route | None:
        return route_by(candidates, ask, _lighter_of_two)


def _lighter_of_two(instances: Sequence[Instance], partner: Instance | None) -> Instance:
    return lightest(random.sample(instances, min(2, len(instances))), partner)
