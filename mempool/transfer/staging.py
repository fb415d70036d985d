"""Staging memory on the host for bytes that are being sent to one receiver."""

from collections import deque

import torch

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
