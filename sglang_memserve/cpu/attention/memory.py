"""Lets the C library keep the memory of a forward's tensors for the next forward."""

import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_LARGE = 1 << 30


def keep_freed_memory() -> bool:
    """Lets the process keep up to 1 GiB of what its tensors free; False where the C library cannot.

    glibc otherwise gives large blocks back to the kernel, which zeroes them page by page when the next
    layer, or the next token, asks for the same again.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and all(
        mallopt(what, _LARGE) == 1 for what in (_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD)
    )
