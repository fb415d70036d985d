"""A request's body in full, and an answer in JSON."""

from __future__ import annotations

import asyncio

import orjson
from aiohttp import web

from router.errors import JSON_HEADERS, ClientSilent, PayloadTooLarge
from router.http.services import SERVICES


async def read_request(request: web.Request) -> bytes:
    """The body. Raises ClientSilent and PayloadTooLarge."""
    config = request.app[SERVICES].config
    try:
        async with asyncio.timeout(config.request_timeout_secs):
            return await request.read()
    except TimeoutError:
        raise ClientSilent("the request's body did not arrive in time (--request-timeout-secs)") from None
    except web.HTTPRequestEntityTooLarge:
        limit = config.max_payload_size
        raise PayloadTooLarge(f"the body is larger than {limit} bytes (--max-payload-size)") from None


def json_response(value: object, status: int = 200) -> web.Response:
    return web.Response(status=status, headers=JSON_HEADERS, body=orjson.dumps(value))
