"""A body on its way to an instance that may have stopped reading."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp

# No larger than what a connection's buffers take, so that only slices have to wait for the instance.
SLICE = 64 << 10


@asynccontextmanager
async def bounded(body: bytes, timeout_s: float) -> AsyncIterator[bytes | AsyncIterator[bytes] | None]:
    """The `data` of a request made in the block; a sliced one needs a Content-Length beside it.

    Raises aiohttp.SocketTimeoutError if `timeout_s` seconds pass without a slice being taken, or without an
    answer after the last one.
    """
    if len(body) <= SLICE:
        yield body or None
        return
    # aiohttp's sock_read begins only when the body has been written.
    deadline = asyncio.timeout(None)
    upload = _Upload(deadline, timeout_s)
    try:
        async with deadline:
            try:
                yield upload.slices(body)
            finally:
                upload.watched = False
    except TimeoutError:
        if deadline.expired():
            raise aiohttp.SocketTimeoutError(f"nothing was read for {timeout_s:g} s") from None
        raise


class _Upload:
    def __init__(self, deadline: asyncio.Timeout, timeout_s: float) -> None:
        self.watched = True
        self._deadline = deadline
        self._timeout_s = timeout_s

    async def slices(self, body: bytes) -> AsyncIterator[bytes]:
        for start in range(0, len(body), SLICE):
            self._extend()
            yield body[start : start + SLICE]
        self._extend()

    def _extend(self) -> None:
        # An instance may answer before it has read everything; from then on sock_read watches.
        if self.watched and not self._deadline.expired():
            self._deadline.reschedule(asyncio.get_running_loop().time() + self._timeout_s)
