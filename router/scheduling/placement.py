"""Where one request goes, and what that charges the instances."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from router.instances.instance import Instance, Role
from router.policies import Route
from router.prefix_tree import NOTHING
from router.prompt.request import RoutingRequest
from router.scheduling.decisions import Decision
from router.scheduling.hints import hint_fields
from router.scheduling.reservation import PrefillReservation, Reservation


class Timer(Protocol):
    """An event loop, or a simulator's."""

    def call_later(self, delay: float, callback: Callable[[], object], /) -> object:
        """Calls `callback` in `delay` seconds."""
        ...


class Reservations(NamedTuple):
    """`prefill`: None where a colocated instance serves the request alone."""

    prefill: Reservation | None
    decode: Reservation


class Placement:
    """A choice of instances, for as long as its request lasts.

    `cache_epochs`: those of the chosen instances when they were chosen.
    """

    def __init__(
        self,
        request: RoutingRequest,
        decision: Decision,
        timer: Timer,
    ) -> None:
        self.request = request
        self.decision = decision
        self.route: Route = decision.route
        self.cache_epochs = {
            instance: instance.cache_epoch for instance in self.route[:2] if instance is not None
        }
        self._timer = timer

    def reserve(self) -> Reservations:
        """Charges the chosen instances. Call it before anything is awaited, and release what it returns."""
        instance = self.route.prefill
        prefill = None if instance is None else self._reservation(instance)
        decode = self._reservation(self.route.decode)
        # Both are there before either is charged: nothing can fail in between.
        if prefill is not None:
            prefill.reserve()
        decode.reserve()
        return Reservations(prefill, decode)

    def hint(self, fields: dict[str, Any], path: str) -> dict[str, Any]:
        """The fields that tell the instance that prefills what to fetch; empty without a fetch."""
        fetch = self.route.fetch
        return {} if fetch is None else hint_fields(fields, path, fetch, self.route.first)

    def _reservation(self, instance: Instance) -> Reservation:
        return Reservation(instance, self._tokens(instance), self._prefill(instance))

    def _tokens(self, instance: Instance) -> int:
        """What is left to prefill, and for an instance that decodes what the answer may have."""
        request, route = self.request, self.route
        if route.prefill is not None and instance is route.decode:
            return request.prompt_tokens + request.new_tokens
        left = max(1, request.prompt_tokens - route.cached.get(instance, NOTHING).tokens)
        return left if instance is route.prefill else left + request.new_tokens

    def _prefill(self, instance: Instance) -> PrefillReservation | None:
        """None where no prefill was estimated."""
        estimate = self.route.estimate(instance)
        if estimate is None or estimate.plan is None:
            return None
        plan, fetch = estimate.plan, estimate.plan.fetch
        prefill = PrefillReservation(
            instance,
            estimate.busy_s,
            source=fetch and fetch.source,
            sending_s=plan.source_busy_s,
            on_done=self.decision.prefilled,
        )
        if fetch is not None:
            self._timer.call_later(estimate.queue_s + plan.fetch_s, prefill.fetched)
        if not self.request.first_token_visible and instance.role is Role.COLOCATED:
            # Nobody sees when the first token of an answer that is not streamed is there.
            self._timer.call_later(estimate.until_prefilled_s, prefill.release)
        return prefill
