"""Endpoints that an instance answers, or a prefill/decode pair."""

from __future__ import annotations

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


async def generate(request: web.Request) -> web.StreamResponse:
    raw = await read_request(request)
    return await _delivered(request, await request.app[SERVICES].forwarder.generate(request, raw))


async def any_instance(request: web.Request) -> web.StreamResponse:
    raw = await read_request(request)
    return await _delivered(request, await request.app[SERVICES].forwarder.any_instance(request, raw))


def colocated(pd_unsupported_reason: str) -> Handler:
    async def handle(request: web.Request) -> web.StreamResponse:
        raw, forwarder = await read_request(request), request.app[SERVICES].forwarder
        return await _delivered(request, await forwarder.colocated(request, raw, pd_unsupported_reason))

    return handle


def holder(pd_unsupported_reason: str) -> Handler:
    async def handle(request: web.Request) -> web.StreamResponse:
        raw, forwarder = await read_request(request), request.app[SERVICES].forwarder
        if (tenant := request.get(TENANT)) is not None:
            request[TARGET] = _own_response(request, tenant)
        return await _delivered(request, await forwarder.holder(request, raw, pd_unsupported_reason))

    return handle


async def _delivered(request: web.Request, attempt: Attempt) -> web.StreamResponse:
    timeout_s, tenant = request.app[SERVICES].config.request_timeout_secs, request.get(TENANT)
    if tenant is not None:
        return await _delivered_to_tenant(request, attempt, timeout_s, tenant)
    try:
        return await deliver(request, attempt.answer, timeout_s)
    finally:
        await attempt.close()


async def _delivered_to_tenant(
    request: web.Request, attempt: Attempt, timeout_s: float, tenant: Tenant
) -> web.StreamResponse:
    answer = TenantAnswer(tenant.tag)
    try:
        return await deliver(request, answer.of(attempt.answer), timeout_s)
    finally:
        tenant.quota.generated(answer.tokens)
        await attempt.close()


def _own_response(request: web.Request, tenant: Tenant) -> UpstreamTarget:
    """Where a stored answer is, by the name that instances know."""
    name = quote(tenant.scoped(request.match_info["response_id"]), safe="")
    path = (endpoint_of(request) or "").replace("{response_id}", name)
    return UpstreamTarget(path, request[TARGET].query)
