from __future__ import annotations

from collections.abc import Sequence

import xxhash

from router.instances.candidates import Candidates
from router.instances.instance import Instance
from router.policies.base import Route, route_by
from router.policies.least_load import LeastLoad
from router.prompt.request import RoutingRequest


class Session:
    """A session stays where it is. What has none goes by load.

    Rendezvous hashing: each session ranks all instances in an order of its own and takes the first healthy
    one. So an instance that goes moves its own sessions only, to many others, and gets them back.
    """

    needs_tokens = False
    needs_prices = False

    def __init__(self) -> None:
        self._without = LeastLoad()

    def route(self, candidates: Candidates, ask: RoutingRequest) -> Route | None:
        if ask.session is None:
            return self._without.route(candidates, ask)
        session = ask.session.encode("utf-8", "surrogatepass")

        def first(instances: Sequence[Instance], _: Instance | None) -> Instance:
            return max(instances, key=lambda one: xxhash.xxh3_64_intdigest(one.url.encode() + b" " + session))

        return route_by(candidates, ask, first)
