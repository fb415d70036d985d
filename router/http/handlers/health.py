"""Whether the router runs, could serve a request, and does serve one."""

from __future__ import annotations

from aiohttp import web

from router.errors import NoInstance
from router.http.messages import json_response
from router.http.services import SERVICES


async def ping(request: web.Request) -> web.Response:
    """A router without instances is well: whoever adds them may be waiting for this."""
    return _served(request) if request.app[SERVICES].registry.instances else await liveness(request)


async def readiness(request: web.Request) -> web.Response:
    return _served(request)


async def health_generate(request: web.Request) -> web.Response:
    await request.app[SERVICES].generate_probe.run(request)
    return json_response({"status": "ok"})


async def liveness(_: web.Request) -> web.Response:
    return json_response({"status": "ok"})


def _served(request: web.Request) -> web.Response:
    if reason := request.app[SERVICES].registry.unservable():
        raise NoInstance(reason)
    return json_response({"status": "ok"})
