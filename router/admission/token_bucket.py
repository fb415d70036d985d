"""A rate with bursts."""

from __future__ import annotations


class TokenBucket:
    """`rate` tokens a second, of which it keeps `capacity` at most, and has as many at first."""

    def __init__(self, rate: float, capacity: float, now: float) -> None:
        self._rate = rate
        self._capacity = capacity
        self._tokens = capacity
        self._filled_at = now

    def take(self, now: float) -> float:
        """Takes a token and returns 0; or takes none, and returns the seconds until there is one."""
        self._tokens = min(self._capacity, self._tokens + self._rate * (now - self._filled_at))
        self._filled_at = now
        if self._tokens >= 1:
            self._tokens -= 1
            return 0.0
        return (1 - self._tokens) / self._rate
