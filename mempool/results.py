"""The results of the calls of a pool. Imports no torch."""

import threading
from collections.abc import Callable
from typing import NamedTuple

from mempool.address import Addresses
from mempool.errors import LeaseExpired
from mempool.index.index import IndexMatch


class MatchResult:
    """The blocks that `match` found, under a lease. A context manager that releases it.

    Attributes:
        blocks: How many blocks match.
        tokens: How many tokens these are.
        addresses: One copy of each block, in order, HBM before DRAM.
    """

    def __init__(self, match: IndexMatch, lock: threading.RLock, is_current: Callable[[], bool]) -> None:
        """`is_current`: whether the index of this match is still the instance's."""
        self.blocks, self.tokens, self.addresses, self._lease = match
        self._lock = lock
        self._is_current = is_current

    def check(self) -> None:
        """Makes sure that the blocks are still held.

        Raises:
            LeaseExpired: The lease has ended, there was none, or the instance has a new incarnation.
        """
        with self._lock:
            if self.blocks and not self._is_current():
                raise LeaseExpired("the instance has a new incarnation, and its blocks belong to others now")
            if self._lease is not None:
                self._lease.check()
            elif self.blocks:
                raise LeaseExpired("these blocks were matched without a lease, and may be gone")

    def renew(self, duration_s: float) -> None:
        """Moves the deadline of the lease to `duration_s` seconds from now.

        Raises:
            LeaseExpired: As for `check`.
        """
        self.check()
        with self._lock:
            if self._lease is not None:
                self._lease.renew(duration_s)

    def release(self) -> None:
        """Ends the lease. Idempotent."""
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
    """The blocks of a medium.

    Attributes:
        free: Nobody's.
        active: Allocated, and not published.
        historical: Published in the index.
        total: The sum of the others.
    """

    free: int
    active: int
    historical: int
    total: int
