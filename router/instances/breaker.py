"""Rest for an instance that keeps failing."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable


class Breaker:
    """Closed: all requests pass. Open: none. Half-open: one at a time, to see.

    It opens after `failure_threshold` failures within `window_s` seconds without a success among them, for
    `rest_s` seconds. Then it is half-open, until `success_threshold` requests have succeeded (closed) or one
    has failed (open again). By default it stays closed. `clock`: seconds, monotonic.
    """

    def __init__(
        self,
        *,
        failure_threshold: float = math.inf,
        success_threshold: int = 1,
        rest_s: float = 0.0,
        window_s: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.closed = True
        self.rest_s = rest_s
        self._failure_threshold = failure_threshold
        self._success_threshold = success_threshold
        self._window_s = window_s
        self._clock = clock
        self._failures: deque[float] = deque()
        self._successes = 0
        self._open_until = -math.inf
        self._trial: object | None = None

    @property
    def state(self) -> str:
        """By sglang_router's names: closed, open or half_open."""
        if self.closed:
            return "closed"
        return "open" if self._clock() < self._open_until else "half_open"

    def reset(self) -> None:
        """Another server has the address: what failed before says nothing of it."""
        self.closed = True
        self._failures.clear()
        self._trial = None

    def lets_through(self) -> bool:
        return self.closed or (self._trial is None and self._clock() >= self._open_until)

    def takes(self, request: object) -> None:
        """A request begins there. Call `leaves` with it in any case."""
        if not self.closed and self.lets_through():
            self._trial = request

    def leaves(self, request: object) -> None:
        if self._trial is request:
            self._trial = None

    def began(self, request: object) -> None:
        """Its answer has begun. That is enough for a request on trial, since streams may be long."""
        if self._trial is not request:
            return
        self._trial = None
        self._successes += 1
        if self._successes >= self._success_threshold:
            self.closed = True
            self._failures.clear()

    def ended(self) -> None:
        """An answer has come to its end."""
        if self._failures:
            self._failures.clear()

    def failed(self) -> bool:
        """A request has failed. True if the breaker opens now."""
        now = self._clock()
        if not self.closed:
            # Requests that were running when it opened say nothing new.
            return now >= self._open_until and self._open(now)
        self._failures.append(now)
        while self._failures[0] < now - self._window_s:
            self._failures.popleft()
        return len(self._failures) >= self._failure_threshold and self._open(now)

    def _open(self, now: float) -> bool:
        self.closed = False
        self._open_until = now + self.rest_s
        self._successes = 0
        self._trial = None
        return True
