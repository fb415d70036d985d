from __future__ import annotations

from router.instances.candidates import Candidates
from router.instances.instance import Role
from router.policies.base import Policy, Route
from router.prompt.request import RoutingRequest


class PerRolePolicy:
    """One policy chooses where a request is prefilled (or served whole), another one where it is decoded."""

    def __init__(self, prefill: Policy, decode: Policy) -> None:
        self.needs_tokens = prefill.needs_tokens or decode.needs_tokens
        self.needs_estimates = prefill.needs_estimates or decode.needs_estimates
        self._prefill = prefill
        self._decode = decode

    def route(self, candidates: Candidates, request: RoutingRequest) -> Route | None:
        route = self._prefill.route(candidates, request)
        if route is None or route.prefill is None:
            return route
        pairs = candidates.only(lambda instance: instance.role is not Role.COLOCATED)
        pair = self._decode.route(pairs, request)
        return route if pair is None else route._replace(decode=pair.decode)
