"""Endpoints that an instance answers, or a prefill/decode pair. What makes them work waits for its turn."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from urllib.parse import quote

from aiohttp import web
from aiohttp.typedefs import Handler

from router.forwarding.attempt import Attempt
from router.forwarding.record import TARGET, TENANT, UpstreamTarget
from router.http.messages import read_request
from router.http.response import deliver
from router.http.services import SERVICES
from router.http.target import endpoint_of
from router.tenants.answer import TenantAnswer
from router.tenants.tenant import Tenant

_ASKS = frozenset({"GET", "HEAD", "OPTIONS"})


async def generate(request: web.Request) -> web.StreamResponse:
    forwarder = request.app[SERVICES].forwarder
    aborts_before = forwarder.client_aborts.count
    return await _in_turn(request, lambda raw: forwarder.generate(request, raw, aborts_before))


async def any_instance(request: web.Request) -> web.StreamResponse:
    forwarder = request.app[SERVICES].forwarder
    if request.method in _ASKS:
        return await _delivered(request, await forwarder.any_instance(request, await read_request(request)))
    return await _in_turn(request, lambda raw: forwarder.any_instance(request, raw))


def colocated(pd_unsupported_reason: str) -> Handler:
    async def handle(request: web.Request) -> web.StreamResponse:
        forwarder = request.app[SERVICES].forwarder
        return await _in_turn(request, lambda raw: forwarder.colocated(request, raw, pd_unsupported_reason))

    return handle


def holder(pd_unsupported_reason: str) -> Handler:
    async def handle(request: web.Request) -> web.StreamResponse:
        raw, forwarder = await read_request(request), request.app[SERVICES].forwarder
        if (tenant := request.get(TENANT)) is not None:
            request[TARGET] = _own_response(request, tenant)
        return await _delivered(request, await forwarder.holder(request, raw, pd_unsupported_reason))

    return handle


async def _in_turn(request: web.Request, ask: Callable[[bytes], Awaitable[Attempt]]) -> web.StreamResponse:
    queue = request.app[SERVICES].admission.requests
    queue.check()
    # A client that is slow to send takes no turn.
    raw = await read_request(request)
    async with queue:
        return await _delivered(request, await ask(raw))


async def _delivered(request: web.Request, attempt: Attempt) -> web.StreamResponse:
    tenant = request.get(TENANT)
    if tenant is not None:
        return await _delivered_to_tenant(request, attempt, tenant)
    try:
        return await deliver(request, attempt.answer)
    finally:
        await attempt.close()


async def _delivered_to_tenant(request: web.Request, attempt: Attempt, tenant: Tenant) -> web.StreamResponse:
    answer = TenantAnswer(tenant.tag)
    try:
        return await deliver(request, answer.of(attempt.answer))
    finally:
        tenant.quota.generated(answer.tokens)
        await attempt.close()


def _own_response(request: web.Request, tenant: Tenant) -> UpstreamTarget:
    """Where a stored answer is, by the name that instances know."""
    name = quote(tenant.scoped(request.match_info["response_id"]), safe="")
    path = (endpoint_of(request) or "").replace("{response_id}", name)
    return UpstreamTarget(path, request[TARGET].query)
