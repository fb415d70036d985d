from __future__ import annotations

from collections.abc import Sequence

from router.instances.candidates import Candidates
from router.instances.instance import Instance
from router.policies.base import Route, least, load_of, route_by
from router.prompt.request import RoutingRequest


class LeastLoad:
    """Whoever has the fewest tokens charged."""

    needs_tokens = False
    needs_prices = False

    def route(self, candidates: Candidates, ask: RoutingRequest) -> Route | None:
        return route_by(candidates, ask, lightest)


def lightest(instances: Sequence[Instance], partner: Instance | None) -> Instance:
    return least(instances, lambda one: load_of(one, partner))
