"""Sends a body to an instance that may stop reading."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp

# Not larger than the buffers of a connection: only between slices does sending wait for the instance.
SLICE = 64 << 10


@asynccontextmanager
async def bounded(body: bytes, timeout_s: float) -> AsyncIterator[bytes | AsyncIterator[bytes] | None]:
    """The `data` of a request that is made in the block. Sliced data needs a Content-Length header.

    Raises aiohttp.SocketTimeoutError if the instance takes no slice for `timeout_s` seconds, or does not
    answer for so long after the last one.
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
                upload.end()
    except TimeoutError:
        if deadline.expired():
            raise aiohttp.SocketTimeoutError(f"nothing was read for {timeout_s:g} s") from None
        raise


class _Upload:
    def __init__(self, deadline: asyncio.Timeout, timeout_s: float) -> None:
        self._ended = False
        self._deadline = deadline
        self._timeout_s = timeout_s

    async def slices(self, body: bytes) -> AsyncIterator[bytes]:
        for start in range(0, len(body), SLICE):
            self._extend()
            yield body[start : start + SLICE]
        self._extend()

    def end(self) -> None:
        """The instance has answered, or will not."""
        self._ended = True

    def _extend(self) -> None:
        # An instance may answer before it has read everything; from then on sock_read watches.
        if not self._ended and not self._deadline.expired():
            self._deadline.reschedule(asyncio.get_running_loop().time() + self._timeout_s)
