"""How a feed is doing, for those who look at the router."""

from __future__ import annotations

import time
from typing import Any

from mempool.index.events import EventGap


class FeedProgress:
    """Of one medium of one instance, whatever client follows it. `trouble`: why nothing is known of this
    medium; "" if all is well.
    """

    def __init__(self) -> None:
        self.trouble = ""
        self._state = "not asked yet"
        self._snapshots = self._events = self._gaps = self._errors = 0
        self._heard_at: float | None = None
        self._event_at: float | None = None

    @property
    def had_snapshot(self) -> bool:
        return self._snapshots > 0

    def enter(self, state: str) -> None:
        self._state = state

    def heard(self) -> None:
        """An answer has come."""
        self._heard_at = time.monotonic()

    def snapshot_taken(self) -> None:
        self._snapshots += 1
        self._state = "followed"

    def events_applied(self, count: int) -> None:
        self._events += count
        self._event_at = time.monotonic()

    def recovered(self) -> None:
        self.trouble = ""

    def failed(self, error: Exception, *, lasting: bool) -> None:
        """`lasting`: not healed by the next snapshot alone."""
        if isinstance(error, EventGap):
            self._gaps += 1
        else:
            self._errors += 1
        if lasting:
            self.trouble = str(error) or type(error).__name__

    def describe(self) -> dict[str, Any]:
        now = time.monotonic()
        return {
            "state": self._state,
            "trouble": self.trouble or None,
            "snapshots": self._snapshots,
            "events": self._events,
            "gaps": self._gaps,
            "errors": self._errors,
            "seconds_since_heard": _since(self._heard_at, now),
            "seconds_since_event": _since(self._event_at, now),
        }


def _since(then: float | None, now: float) -> float | None:
    return None if then is None else round(now - then, 1)
