"""A client's connection, as far as aiohttp refuses what comes there before any handler sees it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any, cast

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError, LineTooLong
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader
from aiohttp.web_protocol import RequestHandler

from router.admission.admission import Admission
from router.admission.connections import GAVE_WAY, address_of
from router.config.settings import RouterConfig
from router.errors import BadRequest, ClientSilent, HeadTooLarge, Overloaded, RouterError, shown
from router.http.reader_watch import ReaderWatch
from router.http.response import explain

logger = logging.getLogger(__name__)

# As SGLang's HTTP server takes them (uvicorn with h11): so many bytes together, in as many headers as may be.
MAX_HEAD_BYTES = 64 << 10
RequestHandling = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]
_MAX_HEADERS = MAX_HEAD_BYTES // len("a:\r\n")
SLOW_HEADERS, SLOW_READER = "header_timeout", "slow_reader"
_LINGERING_SECS = 10.0
# How long one that is turned away may take to read why.
_LEAVING_SECS = 0.5
_CONTINUE = "100-continue"


class ClientConnection(RequestHandler):
    """What is no HTTP gets a JSON error, and no line in the log at its usual level.

    aiohttp bounds the size of each header and their number, 1 GiB together. Here their sum is bounded, the
    time for them, and the time in which a client reads nothing of what is sent. A connection that waits for
    a whole request gives way to others where there are too many.
    """

    __slots__ = (
        "_address",
        "_admission",
        "_head_bytes",
        "_head_since",
        "_header_timeout_s",
        "_latest_body",
        "_reader",
        "_socket",
        "_watch",
    )

    def __init__(self, manager: ClientServer, admission: Admission, config: RouterConfig) -> None:
        loop = asyncio.get_running_loop()
        super().__init__(
            manager,
            loop=loop,
            access_log=None,  # type: ignore[arg-type]
            keepalive_timeout=config.keepalive_timeout_secs,
            # For the rest of a body that is not wanted: many clients read no answer before all is sent.
            lingering_time=min(_LINGERING_SECS, config.client_body_timeout_secs),
            max_line_size=MAX_HEAD_BYTES,
            max_field_size=MAX_HEAD_BYTES,
            max_headers=_MAX_HEADERS,
            # No body is decompressed unless a handler reads it.
            auto_decompress=False,
        )
        self._admission = admission
        self._header_timeout_s = config.client_header_timeout_secs
        self._reader = ReaderWatch(config.send_timeout_secs)
        self._watch: asyncio.TimerHandle | None = None
        self._socket: asyncio.Transport | None = None
        self._address: str | None = None
        self._head_bytes = 0
        self._head_since: float | None = None
        self._latest_body: StreamReader = EMPTY_PAYLOAD

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's is none by its class.
        self._socket = transport = cast(asyncio.Transport, transport)
        address = address_of(str((transport.get_extra_info("peername") or ("",))[0]))
        try:
            self._admission.connections.enter(address)
        except Overloaded as full:
            self._turn_away(transport, full)
            return
        self._address = address
        self._admission.connections.waits(self, address, served=False)
        super().connection_made(transport)
        self._head_since = self._loop.time()
        self._look_again()

    def connection_lost(self, exc: BaseException | None) -> None:
        if self._watch is not None:
            self._watch.cancel()
        if self._address is not None:
            self._admission.connections.leave(self, self._address)
            self._address = None
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        in_body, waiting = not self._latest_body.is_eof(), len(self._messages)
        super().data_received(data)
        if len(self._messages) > waiting:
            self._latest_body, self._head_bytes, self._head_since = self._messages[-1][1], 0, None
            if self._request_in_progress or len(self._messages) > 1:
                self._check_pipelined()
        elif not in_body and data:
            self._head_bytes += len(data)
            if self._head_since is None:
                self._head_since = self._loop.time()
            if self._head_bytes > MAX_HEAD_BYTES:
                self._refuse(HeadTooLarge(MAX_HEAD_BYTES))
            return
        if self._latest_body.is_eof() and self._address is not None:
            self._admission.connections.busy(self, self._address)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._reader.has_read()

    def give_way(self) -> None:
        if self._head_bytes and not self._request_in_progress:
            self._refuse(Overloaded(GAVE_WAY, "the headers came too slowly while others wait to be served"))
        else:
            self.force_close()

    async def _handle_request(self, *args: Any) -> Any:
        try:
            return await super()._handle_request(*args)
        finally:
            if self._head_bytes:
                self._head_since = self._loop.time()
            if not self._messages and self._address is not None:
                self._admission.connections.waits(self, self._address, served=True)

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

    def _check_pipelined(self) -> None:
        """Heads of requests that wait behind another: aiohttp takes up to 32, as large as they may be."""
        heads = (getattr(message, "raw_headers", ()) for message, _ in self._messages)
        if sum(len(name) + len(value) for head in heads for name, value in head) > MAX_HEAD_BYTES:
            self.force_close()

    def _look_again(self) -> None:
        pause = min(self._header_timeout_s, self._reader.timeout_s) / 4
        self._watch = self._loop.call_later(pause, self._look)

    def _look(self) -> None:
        """What has a deadline is looked at now and then: a timer for each of them would cost more."""
        assert self._socket is not None
        now = self._loop.time()
        writes = self._request_in_progress and not self.writing_paused
        if self._reader.is_stuck(self._socket.get_write_buffer_size(), now, writes=writes):
            self._admission.refused[SLOW_READER] += 1
            self._socket.abort()
        elif self._head_is_late(now):
            self._admission.refused[SLOW_HEADERS] += 1
            if self._head_bytes:
                self._refuse(ClientSilent("the request's headers came too slowly"))
            else:
                self.force_close()
        self._look_again()

    def _head_is_late(self, now: float) -> bool:
        if self._request_in_progress or self._head_since is None or self._force_close:
            return False
        return now - self._head_since >= self._header_timeout_s

    def _refuse(self, error: RouterError) -> None:
        """Answers at once and closes: there is no request that a handler could answer."""
        if self.transport is None:
            return
        self.transport.write(_written(error))
        self.force_close()

    def _turn_away(self, transport: asyncio.Transport, error: RouterError) -> None:
        """Says why, to one that is not counted. It is closed when it has read that, or soon."""
        self._force_close = True
        transport.write(_written(error))
        connections = self._admission.connections
        if transport.can_write_eof() and connections.may_linger():
            transport.write_eof()
            self._loop.call_later(_LEAVING_SECS, transport.abort)
            self._loop.call_later(_LEAVING_SECS, connections.left)
        else:
            transport.close()


def _written(error: RouterError) -> bytes:
    headers = {**error.headers, "Content-Length": len(error.body), "Connection": "close"}
    lines = [
        f"HTTP/1.1 {error.status} {HTTPStatus(error.status).phrase}",
        *(f"{name}: {value}" for name, value in headers.items()),
    ]
    return "\r\n".join([*lines, "", ""]).encode() + error.body


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
    def __init__(self, server: web.Server, admission: Admission, config: RouterConfig) -> None:
        super().__init__(
            _explaining(server.request_handler),
            request_factory=server.request_factory,
            handler_cancellation=server.handler_cancellation,
        )
        self._admission = admission
        self._config = config

    def __call__(self) -> RequestHandler:
        return ClientConnection(self, self._admission, self._config)


class ClientRunner(web.AppRunner):
    """An AppRunner whose connections are ClientConnections, and count towards `admission`'s."""

    def __init__(
        self,
        app: web.Application,
        admission: Admission,
        config: RouterConfig,
        *,
        shutdown_timeout: float,
        handler_cancellation: bool = False,
    ) -> None:
        super().__init__(app, shutdown_timeout=shutdown_timeout, handler_cancellation=handler_cancellation)
        self._admission = admission
        self._config = config

    async def _make_server(self) -> web.Server:
        return ClientServer(await super()._make_server(), self._admission, self._config)
