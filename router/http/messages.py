"""A request's body in full, and an answer in JSON."""

from __future__ import annotations

import asyncio

import orjson
from aiohttp import web

from router.errors import JSON_HEADERS, BadRequest, ClientSilent, PayloadTooLarge
from router.http.services import SERVICES
from router.protocol.compression import Unpacker, content_encoding


async def read_request(request: web.Request) -> bytes:
    """The body, decompressed. Raises BadRequest, ClientSilent, PayloadTooLarge and UnknownEncoding."""
    config = request.app[SERVICES].config
    encoding = content_encoding(request.headers)
    try:
        async with asyncio.timeout(config.request_timeout_secs):
            if encoding is None:
                return await request.read()
            return await _unpacked(request, Unpacker(encoding), config.max_payload_size)
    except TimeoutError:
        raise ClientSilent("the request's body did not arrive in time (--request-timeout-secs)") from None
    except web.HTTPRequestEntityTooLarge:
        raise _too_large(config.max_payload_size) from None
    except web.RequestPayloadError as error:
        raise BadRequest(f"the body does not come as its headers say: {error!r:.200}") from None


def json_response(value: object, status: int = 200) -> web.Response:
    return web.Response(status=status, headers=JSON_HEADERS, body=orjson.dumps(value))


async def _unpacked(request: web.Request, unpacker: Unpacker, limit: int) -> bytes:
    body, received = bytearray(), 0
    async for piece in request.content.iter_any():
        received += len(piece)
        for step in unpacker.steps(piece):
            body += step
            if max(len(body), received) > limit:
                raise _too_large(limit)
            # Other requests go on meanwhile.
            await asyncio.sleep(0)
    return bytes(body)


def _too_large(limit: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"the body is larger than {limit} bytes (--max-payload-size)")
