"""A client's connection, as far as aiohttp refuses what comes there before any handler sees it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError, LineTooLong
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader
from aiohttp.web_protocol import RequestHandler

from router.errors import BadRequest, HeadTooLarge, RouterError, shown
from router.http.response import explain

logger = logging.getLogger(__name__)

# As SGLang's HTTP server takes them (uvicorn with h11): so many bytes together, in as many headers as may be.
MAX_HEAD_BYTES = 64 << 10
RequestHandling = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]
_MAX_HEADERS = MAX_HEAD_BYTES // len("a:\r\n")
_CONTINUE = "100-continue"


class ClientConnection(RequestHandler):
    """What is no HTTP gets a JSON error, and no line in the log at its usual level.

    aiohttp bounds the size of each header and their number, 1 GiB together. Here their sum is bounded.
    """

    __slots__ = ("_head_bytes", "_latest_body")

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(
            *args,
            max_line_size=MAX_HEAD_BYTES,
            max_field_size=MAX_HEAD_BYTES,
            max_headers=_MAX_HEADERS,
            # No body is decompressed unless a handler reads it.
            auto_decompress=False,
            **options,
        )
        self._head_bytes = 0
        self._latest_body: StreamReader = EMPTY_PAYLOAD

    def data_received(self, data: bytes) -> None:
        in_body, waiting = not self._latest_body.is_eof(), len(self._messages)
        super().data_received(data)
        if len(self._messages) > waiting:
            self._latest_body, self._head_bytes = self._messages[-1][1], 0
        elif not in_body:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                self._refuse(HeadTooLarge(MAX_HEAD_BYTES))

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        if not isinstance(exc, HttpProcessingError):
            return super().handle_error(request, status, exc, message)
        logger.debug("refused what %s sent: %r", request.remote, exc)
        error = (
            HeadTooLarge(MAX_HEAD_BYTES)
            if isinstance(exc, LineTooLong)
            else BadRequest(f"this is no HTTP request: {exc.message:.200}")
        )
        response = web.Response(status=error.status, headers=error.headers, body=error.body)
        response.force_close()
        return response

    def _refuse(self, error: RouterError) -> None:
        """Answers at once and closes: there is no request that a handler could answer."""
        if self.transport is None:
            return
        headers = {**error.headers, "Content-Length": len(error.body), "Connection": "close"}
        lines = [
            f"HTTP/1.1 {error.status} {HTTPStatus(error.status).phrase}",
            *(f"{name}: {value}" for name, value in headers.items()),
        ]
        self.transport.write("\r\n".join([*lines, "", ""]).encode() + error.body)
        self.force_close()


def _explaining(handle: RequestHandling) -> RequestHandling:
    """Refusals that come before any middleware become JSON too: that of an Expect header."""

    async def handled(request: web.BaseRequest) -> web.StreamResponse:
        try:
            # aiohttp's own refusal quotes the header, and fails if that is no UTF-8.
            expected = request.headers.get("Expect", _CONTINUE)
            if expected.lower() != _CONTINUE:
                raise web.HTTPExpectationFailed(text=f"Expect: {shown(expected)}; {_CONTINUE} is known")
            return await handle(request)
        except web.HTTPException as refused:
            return explain(request, refused)

    return handled


class ClientServer(web.Server):
    def __call__(self) -> RequestHandler:
        return ClientConnection(self, loop=asyncio.get_running_loop(), access_log=None)


class ClientRunner(web.AppRunner):
    """An AppRunner whose connections are ClientConnections; it takes no options for connections."""

    async def _make_server(self) -> web.Server:
        server = await super()._make_server()
        return ClientServer(
            _explaining(server.request_handler),
            request_factory=server.request_factory,
            handler_cancellation=server.handler_cancellation,
        )
