"""Staging memory on the host for bytes that are being sent to one receiver."""

from collections import deque

import torch

from mempool.device import host_device
from mempool.store import BlockSource
from mempool.transports.base import PayloadMemory

_ALIGNMENT = 64


class StagingRing:
    """Lends parts of `memory` (uint8 `[n]`), which come back in the order in which they were taken."""

    def __init__(self, memory: torch.Tensor) -> None:
        self._memory = memory
        self._taken: deque[tuple[int, int]] = deque()

    def take(self, count: int) -> torch.Tensor | None:
        """`count` bytes, at least one. None: they are not free now."""
        size = -(-count // _ALIGNMENT) * _ALIGNMENT
        start = self._place(size)
        if start is None:
            return None
        self._taken.append((start, start + size))
        return self._memory[start : start + count]

    def give_back_first(self) -> None:
        self._taken.popleft()

    def give_back_last(self) -> None:
        self._taken.pop()

    def _place(self, size: int) -> int | None:
        if not self._taken:
            return 0 if size <= len(self._memory) else None
        oldest, end = self._taken[0][0], self._taken[-1][1]
        wrapped = end <= oldest
        if end + size <= (oldest if wrapped else len(self._memory)):
            return end
        return 0 if not wrapped and size <= oldest else None


class StagingMemory:
    """For the blocks of one store: `ring`, of `ring_bytes`, has what is on its way.

    `scratch` has what is gathered before it is encrypted to there. Were it gathered in the ring, a forged
    answer, which gives a part of the ring back too early, would have it sent in clear. `memory`: that of the
    connection.
    """

    def __init__(self, store: BlockSource, ring_bytes: int, memory: PayloadMemory | None = None) -> None:
        self.ring = StagingRing(
            store.host_bytes(ring_bytes)
            if memory is None
            else host_device().shared_memory(memory.allocate(ring_bytes))
        )
        self._store = store
        self._scratch = store.host_bytes(0)

    def scratch(self, count: int) -> torch.Tensor:
        """`count` bytes, until the next call."""
        if len(self._scratch) < count:
            self._scratch = self._store.host_bytes(count)
        return self._scratch[:count]
