"""Requests in flight, and those that wait for their turn."""

from __future__ import annotations

import asyncio

from router.admission.token_bucket import TokenBucket
from router.errors import QueuedTooLong, TooManyRequests

FULL = "queue_full"
TIMED_OUT = "queue_timeout"
RATE = "rate_limit"


class AdmissionQueue:
    """`async with queue:` runs a request in its turn, first come, first served. Raises LimitReached.

    `limit` requests are in flight at most, and `rate` begin in a second after a burst of `limit`; None for
    either: no limit. `size` more wait, `timeout_s` seconds at most.
    """

    def __init__(self, limit: int | None, size: int, timeout_s: float, rate: float | None = None) -> None:
        self.in_flight = 0
        self._limit = limit
        self._size = size
        self._timeout_s = timeout_s
        self._loop = asyncio.get_running_loop()
        self._bucket: TokenBucket | None = None
        if rate is not None:
            self._bucket = TokenBucket(rate, limit or max(1.0, rate), self._loop.time())
        self._waiting: dict[asyncio.Future[None], None] = {}
        self._refill: asyncio.TimerHandle | None = None

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def check(self) -> None:
        """Raises TooManyRequests if a request that came now would be refused."""
        if len(self._waiting) >= self._size and (self._waiting or self._is_full()):
            raise TooManyRequests(
                FULL, f"too many requests are in flight, and {self._size} wait already (--queue-size)"
            )

    async def __aenter__(self) -> None:
        if self._waiting or not self._begins():
            await self._turn()

    async def __aexit__(self, *_: object) -> None:
        self.in_flight -= 1
        if self._waiting:
            self._let_in()

    async def _turn(self) -> None:
        if len(self._waiting) >= self._size:
            self.check()
            raise TooManyRequests(RATE, "more requests come than --rate-limit-tokens-per-second lets begin")
        turn = self._loop.create_future()
        self._waiting[turn] = None
        try:
            async with asyncio.timeout(self._timeout_s):
                await turn
        except BaseException as error:
            # The client has left, or its time is up, perhaps as its turn came.
            if turn.done() and not turn.cancelled():
                await self.__aexit__()
            if not isinstance(error, TimeoutError):
                raise
            message = f"no turn came within {self._timeout_s:g} s (--queue-timeout-secs)"
            raise QueuedTooLong(TIMED_OUT, message) from None
        finally:
            self._waiting.pop(turn, None)

    def _is_full(self) -> bool:
        return self._limit is not None and self.in_flight >= self._limit

    def _begins(self) -> bool:
        """Counts one more request in flight, if it may begin."""
        if self._is_full():
            return False
        if self._bucket is not None and (pause := self._bucket.take(self._loop.time())):
            if self._refill is None:
                self._refill = self._loop.call_later(pause, self._refilled)
            return False
        self.in_flight += 1
        return True

    def _refilled(self) -> None:
        self._refill = None
        self._let_in()

    def _let_in(self) -> None:
        while self._waiting:
            turn = next(iter(self._waiting))
            if turn.done():
                del self._waiting[turn]
                continue
            if not self._begins():
                return
            del self._waiting[turn]
            turn.set_result(None)
