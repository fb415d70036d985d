from __future__ import annotations

import random
from collections.abc import Sequence

import xxhash

from router.instances.candidates import Candidates
from router.instances.instance import Instance
from router.policies.base import Route, route_by
from router.policies.least_load import LeastLoad
from router.prompt.request import RoutingRequest


class SessionAffinity:
    """A session stays where it is. A request without one goes by load.

    Rendezvous hashing: each session ranks all instances in an order of its own and takes the first healthy
    one. So an instance that goes moves its own sessions only, to many others, and gets them back.
    """

    needs_tokens = False
    needs_estimates = False

    def __init__(self, rng: random.Random | None = None) -> None:
        self._without_session = LeastLoad(rng)

    def route(self, candidates: Candidates, request: RoutingRequest) -> Route | None:
        if request.session is None:
            return self._without_session.route(candidates, request)
        session = request.session.encode("utf-8", "surrogatepass")

        def first(instances: Sequence[Instance], _: Instance | None) -> Instance:
            return max(
                instances,
                key=lambda instance: xxhash.xxh3_64_intdigest(instance.url.encode() + b" " + session),
            )

        return route_by(candidates, request, first)
