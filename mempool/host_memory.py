"""How much host memory there is, and what gives freed memory back. Imports no torch."""

import ctypes
from pathlib import Path

import psutil

CGROUP = Path("/sys/fs/cgroup")


def available_memory(cgroup: Path = CGROUP) -> int:
    """Bytes that can be taken without swapping, also under a container's limit."""
    free = int(psutil.virtual_memory().available)
    try:
        limit = int((cgroup / "memory.max").read_text())
        used = int((cgroup / "memory.current").read_text()) - _reclaimable(cgroup)
        return min(free, max(0, limit - used))
    except (OSError, ValueError):
        return free  # "max" is no number: there is no limit


def return_freed_memory() -> None:
    """Returns to the system what was freed and the C library keeps: with glibc that may be all that there
    ever was at once. Takes some milliseconds, in which other threads may have to wait for memory.
    """
    # No other C library has it, or needs it.
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _reclaimable(cgroup: Path) -> int:
    """Bytes of the page cache that counts as used, but that the kernel gives back when it is needed."""
    try:
        lines = (cgroup / "memory.stat").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("inactive_file ")), 0)
