"""A sender's region, as its receiver maps it."""

import contextlib
import fcntl
import mmap
import os
import stat
from typing import Final

from mempool.shared_memory import SEALS


class MappedRegion:
    """The region of that descriptor, of `size` bytes, to be read.

    Only a sealed memfd is taken: no other file is sure to stay as long as it is, and to be read without
    waiting for somebody. The caller closes `descriptor`. Raises ValueError, OSError.
    """

    def __init__(self, descriptor: int, size: int) -> None:
        try:
            seals = fcntl.fcntl(descriptor, fcntl.F_GET_SEALS)
        except OSError as error:
            raise ValueError(f"a region of a file that cannot be sealed: {error}") from error
        if seals & SEALS != SEALS:
            raise ValueError(f"a region with the seals {seals:#x}, not {SEALS:#x}")
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_size != size or not size:
            raise ValueError(f"a region of {size} bytes in a file of {found.st_size} bytes")
        self.size: Final = size
        # Copy-on-write, though nobody writes: torch warns of memory that is read-only.
        self._map = mmap.mmap(descriptor, size, access=mmap.ACCESS_COPY)
        self._bytes = memoryview(self._map)

    def part(self, offset: int, size: int) -> memoryview:
        """Raises ValueError for what is not in it."""
        if not size or offset > self.size - size:
            raise ValueError(f"{size} bytes at {offset} of a region of {self.size} bytes")
        return self._bytes[offset : offset + size]

    def close(self) -> None:
        """A part that somebody still has keeps the map until it is let go."""
        self._bytes.release()
        with contextlib.suppress(BufferError):
            self._map.close()
