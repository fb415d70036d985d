from __future__ import annotations

from router.instances.candidates import Candidates
from router.instances.instance import Role
from router.policies.base import Policy, Route
from router.prompt.request import RoutingRequest


class PerRolePolicy:
    """One policy chooses who prefills (or serves it whole), another one who decodes for that."""

    def __init__(self, prefill: Policy, decode: Policy) -> None:
        self.needs_tokens = prefill.needs_tokens or decode.needs_tokens
        self.needs_prices = prefill.needs_prices or decode.needs_prices
        self._prefill = prefill
        self._decode = decode

    def route(self, candidates: Candidates, ask: RoutingRequest) -> Route | None:
        route = self._prefill.route(candidates, ask)
        if route is None or route.prefill is None:
            return route
        pair = self._decode.route(candidates.only(lambda one: one.role is not Role.COLOCATED), ask)
        return route if pair is None else route._replace(decode=pair.decode)
