"""Leases: pins on what was matched, each with a deadline."""

import heapq
import math
from collections.abc import Callable

from mempool.errors import LeaseExpired
from mempool.index.tree import Node

_ROOM = 64


class Lease:
    """While it lasts, the blocks that its match returned are neither evicted nor moved nor freed.

    Used under the lock of its index. `deadline`: on the index's clock, in seconds.
    """

    __slots__ = ("_table", "deadline", "node", "reclaimed")

    def __init__(self, table: "LeaseTable", node: Node, deadline: float) -> None:
        self._table = table
        self.node: Node | None = node
        self.deadline = deadline
        self.reclaimed = False

    def __lt__(self, other: "Lease") -> bool:
        return self.deadline < other.deadline

    @property
    def expired(self) -> bool:
        """Its deadline passed before it was released."""
        return self.reclaimed or (self.node is not None and self._table.clock() >= self.deadline)

    def check(self) -> None:
        """Raises LeaseExpired unless the blocks are still held."""
        if self.expired:
            raise LeaseExpired("the lease outlived its deadline, its blocks may be gone")
        if self.node is None:
            raise LeaseExpired("the lease was released, its blocks may be gone")

    def renew(self, duration_s: float) -> None:
        """Sets the deadline to `duration_s` from now. Raises LeaseExpired if it has passed already."""
        self.check()
        self._table.schedule(self, duration_s)

    def release(self) -> None:
        """Gives the blocks back. Does nothing after the first time, or after expiry."""
        self._table.end(self)


class LeaseTable:
    """All leases of an index. A lease pins its node and all above, so that a copy on the way stays too.

    `on_unpinned` is called with each node that no lease pins any more.
    """

    def __init__(self, clock: Callable[[], float], on_unpinned: Callable[[Node], None]) -> None:
        self.clock = clock
        self.count = 0
        self._on_unpinned = on_unpinned
        self._heap: list[tuple[float, Lease]] = []

    def grant(self, node: Node, duration_s: float) -> Lease:
        lease = Lease(self, node, 0.0)
        self.schedule(lease, duration_s)
        self.count += 1
        above: Node | None = node
        while above is not None:
            above.pins += 1
            above = above.parent
        return lease

    def schedule(self, lease: Lease, duration_s: float) -> None:
        if not 0 <= duration_s < math.inf:
            raise ValueError(f"a lease lasts a finite time, not {duration_s} s")
        if len(self._heap) > 2 * self.count + _ROOM:
            self._heap = [entry for entry in self._heap if self._current(*entry)]
            heapq.heapify(self._heap)
        lease.deadline = self.clock() + duration_s
        heapq.heappush(self._heap, (lease.deadline, lease))

    def end(self, lease: Lease) -> None:
        node, lease.node = lease.node, None
        if node is None:
            return
        self.count -= 1
        above: Node | None = node
        while above is not None:
            above.pins -= 1
            if not above.pins:
                self._on_unpinned(above)
            above = above.parent

    def reclaim(self) -> int:
        """Ends the leases whose deadline has passed; returns how many."""
        now, overdue = self.clock(), 0
        while self._heap and self._heap[0][0] <= now:
            deadline, lease = heapq.heappop(self._heap)
            if self._current(deadline, lease):
                lease.reclaimed = True
                self.end(lease)
                overdue += 1
        return overdue

    def live(self) -> list[Lease]:
        return [lease for deadline, lease in self._heap if self._current(deadline, lease)]

    @staticmethod
    def _current(deadline: float, lease: Lease) -> bool:
        return lease.node is not None and lease.deadline == deadline
