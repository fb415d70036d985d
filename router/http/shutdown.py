"""The end of a router: nothing new comes in, what runs may end."""

from __future__ import annotations

import asyncio

from aiohttp import web
from aiohttp.typedefs import Handler

from router.errors import Stopping

_ALWAYS = frozenset({"/liveness", "/abort_request", "/workers", "/list_workers", "/decisions"})


class Gate:
    """Counts the requests inside. Once it is closed, it lets in only what serves those."""

    def __init__(self) -> None:
        self.closed = False
        self._inside = 0
        self._empty = asyncio.Event()

    @web.middleware
    async def watch(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if self.closed and request.path not in _ALWAYS:
            raise Stopping("the router is stopping: it takes no more requests")
        self._inside += 1
        try:
            return await handler(request)
        finally:
            self._inside -= 1
            if self.closed and not self._inside:
                self._empty.set()

    async def close(self, timeout_s: float) -> None:
        """Returns when nothing is inside any more, or after `timeout_s` seconds."""
        self.closed = True
        if self._inside:
            try:
                async with asyncio.timeout(timeout_s):
                    await self._empty.wait()
            except TimeoutError:
                pass
