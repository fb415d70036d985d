"""Parts of memory that a socket reads or fills as one."""

from collections.abc import Sequence

from mempool.transports.base import Buffer, Read

# As many as one system call takes (IOV_MAX).
_MAX_PARTS = 1024


class Vector:
    """What is left of `parts`, in order."""

    def __init__(self, parts: Sequence[Buffer | bytearray]) -> None:
        self._parts = [memoryview(part) for part in parts if len(part)]
        self._next = 0
        self.left = sum(part.nbytes for part in self._parts)

    def head(self) -> Sequence[memoryview]:
        """As much as one system call takes."""
        return self._parts[self._next : self._next + _MAX_PARTS]

    def advance(self, count: int) -> None:
        """`count` bytes of the head are done with."""
        self.left -= count
        parts, number = self._parts, self._next
        while number < len(parts) and count >= len(parts[number]):
            count -= len(parts[number])
            number += 1
        if count:
            parts[number] = parts[number][count:]
        self._next = number

    def fill(self, read: Read) -> int:
        """As that of a Place."""
        count = read(self.head())
        self.advance(count)
        return count
