"""Which blocks are evicted first: the least recently used."""

import heapq

from mempool.index.holder import Holder
from mempool.index.tree import Node

_ROOM = 1024


class EvictionQueue:
    """The nodes of which one holder has a copy, the least recently used first, of equals the deepest.

    A heap whose order is put right as nodes come up, so that a use costs nothing here. A node that may not go
    now is parked, and comes back when `wake` says that this may have changed.
    """

    __slots__ = ("_heap", "_holder", "_limit", "_parked")

    def __init__(self, holder: Holder) -> None:
        self._holder = holder
        self._heap: list[tuple[float, int, Node]] = []
        self._parked: set[Node] = set()
        self._limit = _ROOM

    def nodes(self) -> set[Node]:
        """All that hold a copy, parked or not."""
        return {node for _, _, node in self._heap if self._holds(node)} | self._parked

    def push(self, node: Node) -> None:
        if len(self._heap) >= self._limit:
            self._compact()
        heapq.heappush(self._heap, (node.used, -node.end, node))

    def pop(self) -> Node | None:
        """The next in order: the caller pushes it again, parks it, or takes its copy away."""
        while self._heap:
            used, _, node = self._heap[0]
            if not self._holds(node):
                heapq.heappop(self._heap)
            elif node.used <= used:
                return heapq.heappop(self._heap)[2]
            else:
                heapq.heapreplace(self._heap, (node.used, -node.end, node))
        return None

    def park(self, node: Node) -> None:
        self._parked.add(node)
        node.parked = True

    def wake(self, node: Node) -> None:
        if node in self._parked:
            self._parked.remove(node)
            if self._holds(node):
                self.push(node)

    def wake_all(self) -> None:
        for node in list(self._parked):
            self.wake(node)

    def _holds(self, node: Node) -> bool:
        return self._holder in node.copies

    def _compact(self) -> None:
        """Drops the entries of what is gone, so that they cannot pile up where nothing is ever evicted."""
        alive = {node for _, _, node in self._heap if self._holds(node)}
        self._heap = [(node.used, -node.end, node) for node in alive]
        heapq.heapify(self._heap)
        self._limit = 2 * len(alive) + _ROOM
