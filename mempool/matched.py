"""What the calls of a pool return."""

import threading
from collections.abc import Callable
from typing import NamedTuple

from mempool.errors import LeaseExpired
from mempool.index.index import IndexMatch


class MatchResult:
    """What `match` found, and the lease that keeps it. A context manager that releases it.

    `blocks`, `tokens`: how many of them; `addresses`: one copy of each block, in order, HBM before DRAM.
    """

    def __init__(self, match: IndexMatch, lock: threading.RLock, is_current: Callable[[], bool]) -> None:
        """`is_current`: whether the index that was asked is still the instance's."""
        self.blocks, self.tokens, self.addresses, self._lease = match
        self._lock = lock
        self._is_current = is_current

    def check(self) -> None:
        """Raises LeaseExpired unless the blocks are still held. Where nothing matched, nothing is."""
        with self._lock:
            if self.blocks and not self._is_current():
                raise LeaseExpired("the instance has begun anew, and its blocks are others' now")
            if self._lease is not None:
                self._lease.check()
            elif self.blocks:
                raise LeaseExpired("these blocks were matched without a lease, and may be gone")

    def renew(self, seconds: float) -> None:
        """Moves the deadline to `seconds` from now. Raises LeaseExpired."""
        self.check()
        with self._lock:
            if self._lease is not None:
                self._lease.renew(seconds)

    def release(self) -> None:
        """Idempotent."""
        with self._lock:
            if self._lease is not None:
                self._lease.release()

    def __enter__(self) -> "MatchResult":
        return self

    def __exit__(self, *exception: object) -> None:
        self.release()


class BlockCounts(NamedTuple):
    """Blocks of a medium; `total` is the sum of the others."""

    free: int
    active: int
    historical: int
    total: int
