"""Endpoints that every instance answers for itself; the router puts the answers together."""

from __future__ import annotations

from aiohttp import web

from router.errors import BadRequest, Forbidden
from router.forwarding.aborts import names_no_request
from router.forwarding.record import TARGET, TENANT, client_headers
from router.http.auth import CALLER
from router.http.handlers.own_aborts import abort_own
from router.http.messages import json_response, read_request
from router.http.response import deliver
from router.http.services import SERVICES


async def abort_request(request: web.Request) -> web.StreamResponse:
    services, raw = request.app[SERVICES], await read_request(request)
    if (tenant := request.get(TENANT)) is not None:
        return await abort_own(request, raw, tenant)
    if not request[CALLER].administers and names_no_request(raw):
        raise Forbidden("an abort without the `rid` of a request takes the router's admin key")
    services.forwarder.client_aborts.record(raw)
    answer = await services.fanout.abort_request(str(request[TARGET]), client_headers(request), raw)
    return await deliver(request, answer)


async def flush_cache(request: web.Request) -> web.Response:
    status, report = await request.app[SERVICES].fanout.flush_cache(
        str(request[TARGET]), client_headers(request)
    )
    return json_response(report, status)


async def server_info(request: web.Request) -> web.Response:
    return json_response(await request.app[SERVICES].fanout.server_info(client_headers(request)))


async def loads(request: web.Request) -> web.StreamResponse:
    if (wanted := request.query.get("format", "json")) != "json":
        raise BadRequest(f"format={wanted!r:.40}: loads are summed up as JSON only; ask an instance itself")
    services = request.app[SERVICES]
    answer = await services.fanout.loads(str(request[TARGET]), client_headers(request))
    return await deliver(request, answer)
