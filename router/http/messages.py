"""A request's body in full, and an answer in JSON."""

from __future__ import annotations

import asyncio

import orjson
from aiohttp import web
from aiohttp.typedefs import Handler

from router.admission.body_memory import BodyReservation, no_memory
from router.errors import JSON_HEADERS, BadRequest, ClientSilent, PayloadTooLarge
from router.http.services import SERVICES
from router.protocol.compression import Unpacker, content_encoding

BODY = web.RequestKey("BODY", BodyReservation)
BODY_TIMEOUT = "body_timeout"
# Of a body, in the long run. Slower is nobody who wants an answer.
_LEAST_BYTES_PER_S = 1024


async def read_request(request: web.Request) -> bytes:
    """The body, decompressed. Counts towards the memory for bodies until `body_released`.

    Raises BadRequest, ClientSilent, LimitReached, PayloadTooLarge and UnknownEncoding.
    """
    services = request.app[SERVICES]
    encoding = content_encoding(request.headers)
    if (request.content_length or 0) > services.config.max_payload_size:
        raise _too_large(services.config.max_payload_size)
    loop = asyncio.get_running_loop()
    try:
        if request.content.is_eof() and not encoding:
            # It came with its headers, as most do: there is nothing to wait for.
            return _arrived(request)
        async with asyncio.timeout(services.config.client_body_timeout_secs) as deadline:
            held = services.admission.bodies.reserve(lambda: deadline.reschedule(loop.time()))
            request[BODY] = held
            try:
                return await _read(request, Unpacker(encoding) if encoding else None, held, deadline)
            finally:
                held.arrived()
    except TimeoutError:
        if held.gave_way:
            raise no_memory() from None
        services.admission.refused[BODY_TIMEOUT] += 1
        raise ClientSilent("the request's body came too slowly (--client-body-timeout-secs)") from None
    except web.RequestPayloadError as error:
        raise BadRequest(f"the body does not come as its headers say: {error!r:.200}") from None


@web.middleware
async def body_released(request: web.Request, handler: Handler) -> web.StreamResponse:
    """What a request's body holds is given back once the request is done."""
    try:
        return await handler(request)
    finally:
        if (held := request.get(BODY)) is not None:
            held.release()


def json_response(value: object, status: int = 200) -> web.Response:
    return web.Response(status=status, headers=JSON_HEADERS, body=orjson.dumps(value))


def _arrived(request: web.Request) -> bytes:
    services, body = request.app[SERVICES], request.content.read_nowait()
    if len(body) > services.config.max_payload_size:
        raise _too_large(services.config.max_payload_size)
    request[BODY] = services.admission.bodies.hold(body)
    return body


async def _read(
    request: web.Request, unpacker: Unpacker | None, held: BodyReservation, deadline: asyncio.Timeout
) -> bytes:
    """Keeps `deadline` from passing while the client goes on."""
    config, loop = request.app[SERVICES].config, asyncio.get_running_loop()
    limit, timeout_s = config.max_payload_size, config.client_body_timeout_secs
    parts, size, received, end = [], 0, 0, loop.time() + timeout_s
    async for piece in request.content.iter_any():
        received += len(piece)
        for part in (piece,) if unpacker is None else unpacker.steps(piece):
            size += len(part)
            if max(size, received) > limit:
                raise _too_large(limit)
            held.add(part)
            parts.append(part)
            if unpacker is not None:
                # Other requests go on meanwhile.
                await asyncio.sleep(0)
        if held.gave_way:
            raise no_memory()
        if not request.content.at_eof():
            deadline.reschedule(min(loop.time() + timeout_s, end + received / _LEAST_BYTES_PER_S))
    return b"".join(parts)


def _too_large(limit: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"the body is larger than {limit} bytes (--max-payload-size)")
