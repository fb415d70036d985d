from __future__ import annotations

import random
from collections.abc import Sequence

from router.instances.candidates import Candidates
from router.instances.instance import Instance
from router.policies.base import Route, route_by
from router.prompt.request import RoutingRequest


class AtRandom:
    """Anybody who is healthy, each as likely as the next."""

    needs_tokens = False
    needs_prices = False

    def route(self, candidates: Candidates, ask: RoutingRequest) -> Route | None:
        return route_by(candidates, ask, _anybody)


def _anybody(instances: Sequence[Instance], _: Instance | None) -> Instance:
    return random.choice(instances)
