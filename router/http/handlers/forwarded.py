"""Endpoints that an instance answers, or a prefill/decode pair."""

from __future__ import annotations

from aiohttp import web
from aiohttp.typedefs import Handler

from router.http.messages import read_request
from router.http.response import deliver
from router.http.services import SERVICES


async def generate(request: web.Request) -> web.StreamResponse:
    services, raw = request.app[SERVICES], await read_request(request)
    async with services.forwarder.generate(request, raw) as answer:
        return await deliver(request, answer, services.config.request_timeout_secs)


async def any_instance(request: web.Request) -> web.StreamResponse:
    services, raw = request.app[SERVICES], await read_request(request)
    async with services.forwarder.anyone(request, raw) as answer:
        return await deliver(request, answer, services.config.request_timeout_secs)


def colocated(pd_unsupported_reason: str) -> Handler:
    async def handle(request: web.Request) -> web.StreamResponse:
        services, raw = request.app[SERVICES], await read_request(request)
        async with services.forwarder.colocated(request, raw, pd_unsupported_reason) as answer:
            return await deliver(request, answer, services.config.request_timeout_secs)

    return handle


def holder(pd_unsupported_reason: str) -> Handler:
    async def handle(request: web.Request) -> web.StreamResponse:
        services, raw = request.app[SERVICES], await read_request(request)
        async with services.forwarder.holder(request, raw, pd_unsupported_reason) as answer:
            return await deliver(request, answer, services.config.request_timeout_secs)

    return handle
