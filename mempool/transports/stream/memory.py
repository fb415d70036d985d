"""Memory for what has no other place."""

from typing import Final

from mempool.transports.base import Read
from mempool.transports.vector import Vector


class BufferSink:
    """A place of its own."""

    def __init__(self, size: int) -> None:
        self.bytes: Final = bytearray(size)
        self._vector = Vector([self.bytes])

    def fill(self, read: Read) -> int:
        return self._vector.fill(read)
