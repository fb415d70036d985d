"""What keeps a thread going that serves everyone."""

import logging
import time
from collections.abc import Callable
from types import TracebackType

logger = logging.getLogger(__name__)

# A peer that finds a fault may repeat it thousands of times a second.
_QUIET_SECONDS = 60.0


class LoopGuard:
    """`with guard:` around a part of a loop: an unexpected error ends that part, and never the loop.

    `errors` counts them. Of each kind of error the first is logged with its traceback, and so is the next one
    a minute later; `doing` says what failed. An error that has a meaning is to be caught inside. For one
    thread.
    """

    def __init__(self, doing: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.errors = 0
        self._doing = doing
        self._clock = clock
        # By kind: when it was logged, and how many have come since.
        self._logged: dict[type[BaseException], tuple[float, int]] = {}

    def __enter__(self) -> None:
        return None

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        if not isinstance(error, Exception):
            return False
        self.report(error)
        return True

    def report(self, error: Exception) -> None:
        """Counts and logs an unexpected error that was caught elsewhere."""
        self.errors += 1
        now = self._clock()
        logged_at, since = self._logged.get(type(error), (now - _QUIET_SECONDS, 0))
        if now - logged_at < _QUIET_SECONDS:
            self._logged[type(error)] = logged_at, since + 1
            return
        self._logged[type(error)] = now, 0
        more = f" ({since} more like it were not logged)" if since else ""
        logger.error("%s failed%s", self._doing, more, exc_info=error)
