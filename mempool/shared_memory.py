"""Host memory that other processes of this host can map, to read it. Imports no torch."""

import fcntl
import mmap
import os
import weakref
from typing import Final

import numpy as np
import numpy.typing as npt

# Linux's F_SEAL_FUTURE_WRITE, for which `fcntl` has no name yet: maps that are made later are read-only.
_SEAL_FUTURE_WRITE = 0x0010
SEALS: Final = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | _SEAL_FUTURE_WRITE
"""What no process can do any more to a region's file: shrink it, let it grow, map it to write."""


class SharedRegion:
    """`size` bytes in a sealed memfd. This process writes to them; who is given the descriptor reads them.

    The file has no name: the kernel frees it with its last user, however the processes end. `bytes` is zeroed
    memory, uint8 `[size]`, which stays as long as anything refers to it; the descriptor stays as long as this
    object. Raises OSError where the host has no such memory.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.fd = os.memfd_create("memserve", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        weakref.finalize(self, os.close, self.fd)
        os.ftruncate(self.fd, size)
        # Before it is sealed: this is the one map that may be written to.
        memory = mmap.mmap(self.fd, size)
        fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, SEALS)
        self.bytes: npt.NDArray[np.uint8] = np.frombuffer(memory, dtype=np.uint8)
        self._start = address_of(self.bytes.data)

    def offset_of(self, part: memoryview) -> int | None:
        """Where `part` begins in the region. None: it is not all in there."""
        offset = address_of(part) - self._start
        return offset if 0 <= offset <= self.size - part.nbytes else None


def address_of(part: memoryview) -> int:
    """Of contiguous memory."""
    address: int = np.frombuffer(part, dtype=np.uint8).__array_interface__["data"][0]
    return address
