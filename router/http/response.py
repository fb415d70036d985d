"""Answers and failures written to the client's connection."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Mapping
from http import HTTPStatus

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from router.errors import JSON_HEADERS, Failure, LimitReached, error_body
from router.forwarding.record import RECORD
from router.protocol import sse
from router.protocol.answer import UpstreamAnswer

logger = logging.getLogger(__name__)

# Of a whole answer, what is handed to the connection before it has taken the rest.
_SLICE = 1 << 20


async def deliver(request: web.Request, answer: UpstreamAnswer) -> web.StreamResponse:
    """Send the answer. An event stream that breaks off ends with an error event; any other stream is cut.

    Waits for the client to read it: its connection ends that (`ClientConnection`). Raises ConnectionError
    after cutting, or if the client is gone.
    """
    if answer.rest is None:
        return await _whole(request, answer.status, answer.headers, answer.body)
    response = web.StreamResponse(status=answer.status, headers=answer.headers)
    await response.prepare(request)
    record = request[RECORD]
    record.stream_began()
    await response.write(answer.body)
    last, events = answer.body, answer.body.count(sse.END)
    try:
        async for chunk in answer.rest:
            await response.write(chunk)
            last, events = chunk, events + chunk.count(sse.END)
        if answer.failure is None:
            record.stream_ended(events - last.endswith(sse.DONE))
    except Failure as failure:
        logger.warning("a stream broke off: %s", failure)
        if response.content_type != sse.CONTENT_TYPE:
            _cut(request)
            raise ConnectionAbortedError("a stream without a form for errors broke off") from None
        mid_event = bool(last) and not sse.ends_event(last)
        await response.write(sse.closing(failure.body, mid_event=mid_event))
    await response.write_eof()
    return response


async def _whole(
    request: web.Request, status: int, headers: Mapping[str, str], body: bytes
) -> web.StreamResponse:
    if len(body) <= _SLICE:
        return web.Response(status=status, headers=headers, body=body)
    response = web.StreamResponse(status=status, headers=headers)
    response.content_length = len(body)
    await response.prepare(request)
    for start in range(0, len(body), _SLICE):
        await response.write(body[start : start + _SLICE])
    await response.write_eof()
    return response


def _gone(request: web.Request) -> bool:
    return request.transport is None or request.transport.is_closing()


def _cut(request: web.Request) -> None:
    if request.transport is not None:
        request.transport.abort()


def failures_as_json(refused: Counter[str]) -> Middleware:
    """A failure before the answer has begun becomes JSON with an `error`, or the instance's own answer.

    `refused` counts those at a bound of the router's own, by reason.
    """

    @web.middleware
    async def answer_failures(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await _explained(request, handler, refused)
        except ConnectionError:
            if not _gone(request):
                raise
            # This is how aiohttp ends a handler whose client has left; any other error is logged.
            raise asyncio.CancelledError from None

    return answer_failures


async def _explained(request: web.Request, handler: Handler, refused: Counter[str]) -> web.StreamResponse:
    try:
        return await handler(request)
    except Failure as failure:
        if isinstance(failure, LimitReached):
            refused[failure.reason] += 1
        return await _whole(request, failure.status, failure.headers, failure.body)
    except web.HTTPException as error:
        return explain(request, error)
    except ConnectionError:
        raise
    except Exception:
        logger.exception("%s %s failed inside the router", request.method, request.path)
        return _json_error(500, "the router failed on this request; its log says more", "router_error")


def explain(request: web.BaseRequest, refused: web.HTTPException) -> web.Response:
    """aiohttp's own refusal as JSON."""
    if refused.status == HTTPStatus.NOT_FOUND:
        return _json_error(404, f"{request.path:.200} is not served here", "not_found")
    if refused.status == HTTPStatus.METHOD_NOT_ALLOWED:
        return _json_error(405, f"{request.path:.200} does not take {request.method}", "method_not_allowed")
    return _json_error(refused.status, refused.text or refused.reason, "invalid_request_error")


def _json_error(status: int, message: str, kind: str) -> web.Response:
    return web.Response(status=status, headers=JSON_HEADERS, body=error_body(status, message, kind))
