"""What one tenant uses, held to its limits."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from router.errors import BadRequest, TenantLimited

_MINUTE_S = 60


@dataclass(frozen=True, slots=True)
class TenantLimits:
    """None: no limit."""

    requests_in_flight: int | None = None
    tokens_per_minute: int | None = None
    prompt_tokens: int | None = None


class Quota:
    """The requests of a tenant that run, and its tokens of the last minute. `refused` counts by the limit.

    It outlives a change of the limits: what runs still counts.
    """

    def __init__(self, name: str, limits: TenantLimits) -> None:
        self.limits = limits
        self.in_flight = 0
        self.tokens = 0
        self.refused: Counter[str] = Counter()
        self._name = name
        self._rate: TokenRate | None = None

    @contextmanager
    def request(self) -> Iterator[None]:
        """A request runs while in the block. Raises TenantLimited at once if as many run as may."""
        limit = self.limits.requests_in_flight
        if limit is not None and self.in_flight >= limit:
            self.refused["requests_in_flight"] += 1
            raise TenantLimited(
                f"tenant {self._name} has {limit} requests in flight, as many as it may: wait for one to end",
                retry_after_s=1,
            )
        self.in_flight += 1
        try:
            yield
        finally:
            self.in_flight -= 1

    def check_prompt(self, tokens: int) -> None:
        """Raises BadRequest for a prompt that is too long for this tenant."""
        limit = self.limits.prompt_tokens
        if limit is not None and tokens > limit:
            self.refused["prompt_tokens"] += 1
            raise BadRequest(f"the prompt has {tokens} tokens: tenant {self._name} may send {limit} at once")

    async def admit(self, prompt_tokens: int) -> None:
        """Charges a prompt. Raises BadRequest if it is too long, TenantLimited if the minute is used up."""
        self.check_prompt(prompt_tokens)
        if (rate := self._current_rate()) is not None:
            wait_s = await rate.charge(prompt_tokens)
            if wait_s:
                self.refused["tokens_per_minute"] += 1
                raise TenantLimited(
                    f"tenant {self._name} has used its {rate.per_minute} tokens a minute: wait {wait_s} s",
                    retry_after_s=wait_s,
                )
        self.tokens += prompt_tokens

    def generated(self, tokens: int) -> None:
        """Charges what an answer had; nothing is refused any more for it, but the next request may be."""
        self.tokens += tokens
        if tokens and (rate := self._current_rate()) is not None:
            rate.owe(tokens)

    def _current_rate(self) -> TokenRate | None:
        limit = self.limits.tokens_per_minute
        if limit is None:
            return None
        if self._rate is None or self._rate.per_minute != limit:
            self._rate = TokenRate(limit)
        return self._rate


class TokenRate:
    """Tokens of the last minute, by a sliding window of two counters: an entry a token would be millions.

    What was used past the limit is owed, and charged as soon as the window has room. So a tenant gets
    `per_minute` in the long run, however long its answers are.
    """

    def __init__(self, per_minute: int) -> None:
        # 50 ms of imports, for routers that have tenants with such a limit.
        from limits import RateLimitItemPerMinute
        from limits.aio.storage import MemoryStorage
        from limits.aio.strategies import SlidingWindowCounterRateLimiter

        self.per_minute = per_minute
        self._item = RateLimitItemPerMinute(per_minute)
        self._limiter = SlidingWindowCounterRateLimiter(MemoryStorage())
        self._owed = 0
        self._settling: asyncio.Task[None] | None = None

    async def charge(self, tokens: int) -> int:
        """0, or how many seconds to wait before this can be charged."""
        await self._settle()
        # What is more than a minute's tokens has to wait for an empty one, not for ever.
        now = min(tokens, self.per_minute)
        if self._owed or not await self._limiter.hit(self._item, cost=now):
            missing = self._owed + now - (await self._remaining())
            return max(1, math.ceil(missing * _MINUTE_S / self.per_minute))
        self._owed += tokens - now
        return 0

    def owe(self, tokens: int) -> None:
        self._owed += tokens
        if self._settling is None or self._settling.done():
            self._settling = asyncio.get_running_loop().create_task(self._settle())

    async def _settle(self) -> None:
        paid = min(self._owed, await self._remaining())
        if paid > 0:
            self._owed -= paid
            if not await self._limiter.hit(self._item, cost=paid):
                self._owed += paid

    async def _remaining(self) -> int:
        return (await self._limiter.get_window_stats(self._item)).remaining
