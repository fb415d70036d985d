"""Rest for an instance that keeps failing."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable


class Breaker:
    """Closed: all requests pass. Open: none. Half-open: one at a time, to see.

    It opens after `most` failures within `window` seconds without a success among them, for `rest` seconds;
    then it is half-open, until `enough` requests have succeeded (closed) or one has failed (open again).
    By default it stays closed.
    """

    def __init__(
        self,
        most: float = math.inf,
        enough: int = 1,
        rest: float = 0.0,
        window: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.closed = True
        self.rest = rest
        self._most = most
        self._enough = enough
        self._window = window
        self._clock = clock
        self._failures: deque[float] = deque()
        self._successes = 0
        self._until = -math.inf
        self._trial: object | None = None

    @property
    def state(self) -> str:
        """By the names that sglang_router has for them."""
        if self.closed:
            return "closed"
        return "open" if self._clock() < self._until else "half_open"

    def lets_through(self) -> bool:
        return self.closed or (self._trial is None and self._clock() >= self._until)

    def takes(self, request: object) -> None:
        """A request begins there. Call `leaves` with it in any case."""
        if not self.closed and self.lets_through():
            self._trial = request

    def leaves(self, request: object) -> None:
        if self._trial is request:
            self._trial = None

    def began(self, request: object) -> None:
        """Its answer has begun: enough to know for one on trial, since streams may be long."""
        if self._trial is not request:
            return
        self._trial = None
        self._successes += 1
        if self._successes >= self._enough:
            self.closed = True
            self._failures.clear()

    def ended(self) -> None:
        """An answer has come to its end."""
        if self._failures:
            self._failures.clear()

    def failed(self) -> bool:
        """A request has failed. True if it opens now."""
        now = self._clock()
        if not self.closed:
            # Those that were running when it opened say nothing new.
            return now >= self._until and self._open(now)
        self._failures.append(now)
        while self._failures[0] < now - self._window:
            self._failures.popleft()
        return len(self._failures) >= self._most and self._open(now)

    def _open(self, now: float) -> bool:
        self.closed = False
        self._until = now + self.rest
        self._successes = 0
        self._trial = None
        return True
