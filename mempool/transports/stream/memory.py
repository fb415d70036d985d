"""Memory for what has no other place."""

from typing import Final

from mempool.transports.base import Read

# More than all but a few headers have.
_FIRST_BYTES = 4096


class BufferSink:
    """A place of its own for `size` bytes. It grows with what arrives: to announce it costs nothing."""

    is_staging = False

    def __init__(self, size: int) -> None:
        self.bytes: Final = bytearray(min(size, _FIRST_BYTES))
        self._size = size
        self._filled = 0

    def fill(self, read: Read) -> int:
        if self._filled == len(self.bytes):
            self.bytes.extend(bytes(min(self._filled, self._size - self._filled)))
        # Released at once: memory that is looked at cannot grow.
        with memoryview(self.bytes) as whole, whole[self._filled :] as room:
            count = read([room])
        self._filled += count
        return count
