"""The router's end: it takes no new requests, and those that run may finish."""

from __future__ import annotations

import asyncio

from aiohttp import web
from aiohttp.typedefs import Handler

from router.errors import Stopping
from router.http.target import endpoint_of

# Aborts and whatever watches the shutdown are answered to the last.
_ALWAYS = frozenset({"/liveness", "/abort_request", "/workers", "/list_workers", "/decisions"})


class GracefulShutdown:
    """Counts the requests that run. Once it has begun, it refuses new ones with Stopping."""

    def __init__(self) -> None:
        self.begun = False
        self._running = 0
        self._idle = asyncio.Event()

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if self.begun and endpoint_of(request) not in _ALWAYS:
            raise Stopping("the router is stopping: it takes no more requests")
        self._running += 1
        try:
            return await handler(request)
        finally:
            self._running -= 1
            if self.begun and not self._running:
                self._idle.set()

    async def drain(self, timeout_s: float) -> None:
        """Begin it. Returns when no request runs any more, or after `timeout_s` seconds."""
        self.begun = True
        if self._running:
            try:
                async with asyncio.timeout(timeout_s):
                    await self._idle.wait()
            except TimeoutError:
                pass
