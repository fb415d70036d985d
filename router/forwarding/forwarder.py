"""From a client's request to the instances that answer it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Collection
from functools import partial
from http import HTTPStatus
from typing import Any

from aiohttp import web
from multidict import CIMultiDict

from router.config.settings import RouterConfig
from router.errors import Conflict, Failure, InstanceRefused, NoInstance
from router.forwarding import logprobs
from router.forwarding.aborts import AbortSender, ClientAborts
from router.forwarding.attempt import Attempt, observed
from router.forwarding.names import NamesInFlight
from router.forwarding.pair import Lingering, Pair
from router.forwarding.record import RECORD, TARGET, TENANT, client_headers
from router.forwarding.retries import Retries
from router.forwarding.upstream import Request, UpstreamRequest
from router.instances.client import InstanceClient
from router.instances.instance import Instance, Role
from router.instances.registry import Registry
from router.protocol import body, bootstrap, headers
from router.scheduling.placement import Placement
from router.scheduling.reservation import Reservation
from router.scheduling.scheduler import Scheduler
from router.tenants.requests import rewritten, routed


class Forwarder:
    """Makes attempts at clients' requests. Each method returns one that has run; the caller closes it.

    `client_aborts` must have what clients abort by name. `names`: those of the requests that run.
    """

    def __init__(
        self,
        config: RouterConfig,
        registry: Registry,
        scheduler: Scheduler,
        client: InstanceClient,
        rng: random.Random | None = None,
    ) -> None:
        self._config = config
        self._registry = registry
        self._scheduler = scheduler
        self._client = client
        self._headers = headers.HeaderFilter(
            credentials=config.passes_credentials, also=config.request_id_headers
        )
        self._lingering = Lingering()
        self.names = NamesInFlight()
        self._abort_sender = AbortSender(client)
        self.client_aborts = ClientAborts()
        self.retries = Retries(config, self.client_aborts, self._abort_sender, rng=rng)

    async def close(self) -> None:
        await self._lingering.close()
        await self._abort_sender.close()

    async def generate(self, request: web.Request, raw: bytes, aborts_before: int | None = None) -> Attempt:
        """A generation request, on a prefill/decode pair or a colocated instance. Raises Failure.

        `aborts_before`: the count of aborts when it came, if it has waited since.
        """
        parsed, tenant, path = body.parse(raw), request.get(TENANT), request[TARGET].path
        if tenant is not None:
            parsed = rewritten(parsed, path, tenant)
        if parsed is None:
            # SGLang refuses this, in its own words, before it does anything.
            return await self.any_instance(request, raw)
        names = bootstrap.given_ids(parsed.fields)
        if aborts_before is not None and self.client_aborts.any_since(aborts_before, names):
            raise Conflict("the request was aborted while it waited for its turn")
        self.names.take(names)
        try:
            fields, admit = parsed.fields, None
            if (key := request.headers.get(headers.ROUTING_KEY)) is not None:
                fields = {"routing_key": key, **fields}
            if tenant is not None:
                fields, admit = routed(fields, tenant), tenant.quota.admit
            chosen = await self._scheduler.choose(fields, path, len(raw), admit)

            def new_attempt(failed: Collection[str]) -> Attempt:
                placement = self._scheduler.again(chosen, failed) if failed else chosen
                return self._generation(placement, request, parsed)

            attempt = await self.retries.run(new_attempt, names)
        except BaseException:
            self.names.release(names)
            raise
        attempt.call_on_close(partial(self.names.release, names))
        return attempt

    async def any_instance(self, request: web.Request, raw: bytes = b"") -> Attempt:
        """The request as it came, on some healthy instance. Raises Failure."""

        def new_attempt(failed: Collection[str]) -> Attempt:
            instance = self._registry.any_healthy(failed)
            if instance is None:
                raise NoInstance(self._registry.unservable() or "no healthy instance")
            return self._alone(instance, request, raw)

        return await self.retries.run(new_attempt)

    async def colocated(self, request: web.Request, raw: bytes, pd_unsupported_reason: str) -> Attempt:
        """A request that no pair can answer, and why not, on a colocated instance. Raises Failure."""
        chosen = self._scheduler.colocated(request[TARGET].path, len(raw))
        if chosen is None:
            raise self._registry.no_colocated(pd_unsupported_reason)

        def new_attempt(failed: Collection[str]) -> Attempt:
            placement = self._scheduler.again(chosen, failed) if failed else chosen
            request[RECORD].served_by(placement.route.decode, decision=placement.decision)
            reservation = placement.reserve().decode
            return Attempt(self._upstream(request, self._forwarded(request), reservation, raw))

        return await self.retries.run(new_attempt)

    async def holder(self, request: web.Request, raw: bytes, pd_unsupported_reason: str) -> Attempt:
        """The request on the colocated instance that does not answer 404. Raises Failure."""
        unknown: Failure = self._registry.no_colocated(pd_unsupported_reason)
        for instance in self._registry.healthy(Role.COLOCATED):
            attempt = self._alone(instance, request, raw)
            try:
                await attempt.run()
            except InstanceRefused as refused:
                if refused.status != HTTPStatus.NOT_FOUND:
                    raise
                unknown = refused
            else:
                return attempt
        raise unknown

    def _generation(self, placement: Placement, request: web.Request, parsed: body.Body) -> Attempt:
        """With names of its own: what a failed attempt left behind must not meet them."""
        fields, path, route = parsed.fields, request[TARGET].path, placement.route
        rid = bootstrap.request_id(fields, path, new=route.prefill is not None)
        clients_own = fields.get("rid") is not None
        added: dict[str, Any] = {}
        if route.prefill is not None:
            added = bootstrap.bootstrap_fields(
                fields, path, route.prefill.bootstrap_host, route.prefill.bootstrap_port
            )
            if rid and not clients_own:
                added["rid"] = rid
        hint = placement.hint(fields, path)
        raw = parsed.replacing(bootstrap.BOOTSTRAP_PREFIX, added)
        hinted = parsed.replacing(bootstrap.BOOTSTRAP_PREFIX, added | hint) if hint else raw
        style = None if route.prefill is None else logprobs.style_of(fields, path)
        record = request[RECORD]
        record.served_by(route.decode, route.prefill, placement.decision)
        half = partial(self._upstream, request, self._forwarded(request), rid=rid, clients_own=clients_own)
        # Nothing is awaited since the choice: the next request is routed by what is charged here.
        prefill, decode = placement.reserve()
        exchange: UpstreamRequest | Pair
        if prefill is None:
            exchange = half(decode, hinted)
        else:
            exchange = Pair(
                half(prefill, hinted, partner=decode.instance),
                half(decode, raw, partner=prefill.instance),
                self._lingering,
                style and logprobs.PromptLogprobs(style, self._config.max_payload_size),
            )
        return Attempt(
            exchange,
            observe=lambda answer: observed(answer, placement, self._scheduler, record),
            added_fields=(hint, added),
        )

    def _alone(self, instance: Instance, request: web.Request, raw: bytes) -> Attempt:
        """On an instance that no policy chose: it is charged no tokens."""
        request[RECORD].served_by(instance)
        reservation = Reservation(instance)
        reservation.reserve()
        return Attempt(self._upstream(request, self._forwarded(request), reservation, raw))

    def _forwarded(self, request: web.Request) -> CIMultiDict[str]:
        return self._headers.of(client_headers(request))

    def _upstream(
        self,
        request: web.Request,
        forwarded: CIMultiDict[str],
        reservation: Reservation,
        raw: bytes,
        *,
        rid: str | None = None,
        clients_own: bool = False,
        partner: Instance | None = None,
    ) -> UpstreamRequest:
        instance = reservation.instance
        begun = asyncio.get_running_loop().time()
        abandoned = partial(self._abort_sender.send, instance, rid, forwarded, begun) if rid else None
        sent = forwarded.copy()
        if raw:
            sent["Content-Length"] = str(len(raw))
        upstream = Request(request.method, str(request[TARGET]), sent, raw)
        return UpstreamRequest(
            self._client, upstream, reservation, self._config, abandoned, clients_own, partner
        )
