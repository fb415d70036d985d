"""What the calls of a pool return."""

import threading
from collections.abc import Callable
from typing import NamedTuple

from mempool.address import Addresses
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

    def renew(self, duration_s: float) -> None:
        """Moves the deadline to `duration_s` from now. Raises LeaseExpired."""
        self.check()
        with self._lock:
            if self._lease is not None:
                self._lease.renew(duration_s)

    def release(self) -> None:
        """Idempotent."""
        with self._lock:
            if self._lease is not None:
                self._lease.release()

    def __enter__(self) -> "MatchResult":
        return self

    def __exit__(self, *exception: object) -> None:
        self.release()


class TransferResult(NamedTuple):
    """A transfer that the receiver has confirmed.

    Attributes:
        addresses: Where the blocks are that were sent. Empty where the receiver's engine places them itself.
        present: How many blocks, before those sent, the receiver had published already.
        private: The caller's cookie.
    """

    addresses: Addresses
    present: int
    private: bytes


class BlockCounts(NamedTuple):
    """Blocks of a medium; `total` is the sum of the others."""

    free: int
    active: int
    historical: int
    total: int
