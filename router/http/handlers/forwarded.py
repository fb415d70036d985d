"""Endpoints that an instance answers, or a prefill/decode pair."""

from __future__ import annotations

from aiohttp import web
from aiohttp.typedefs import Handler

from router.forwarding.attempt import Attempt
from router.http.messages import read_request
from router.http.response import deliver
from router.http.services import SERVICES


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
        return await _delivered(request, await forwarder.holder(request, raw, pd_unsupported_reason))

    return handle


async def _delivered(request: web.Request, attempt: Attempt) -> web.StreamResponse:
    try:
        return await deliver(request, attempt.answer, request.app[SERVICES].config.request_timeout_secs)
    finally:
        await attempt.close()
