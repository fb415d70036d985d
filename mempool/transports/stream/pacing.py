"""A bound on what a TCP connection sends in a second. The kernel keeps it."""

import socket
import struct
import sys

from mempool.errors import MemPoolError

# SO_MAX_PACING_RATE, for which `socket` has no name. Since Linux 4.13 TCP paces by itself where fq does not.
_MAX_PACING_RATE = 47
# In 32 bits this is no bound; older kernels take no others.
_ALL_ONES = (1 << 32) - 1


def pace(stream: socket.socket, bytes_per_second: int) -> None:
    """Raises MemPoolError where that cannot be had."""
    form = "=I" if bytes_per_second < _ALL_ONES else "=Q"
    try:
        stream.setsockopt(socket.SOL_SOCKET, _MAX_PACING_RATE, struct.pack(form, bytes_per_second))
    except OSError as error:
        raise _unbounded(bytes_per_second, error.strerror) from error


def require_pacing(bytes_per_second: int) -> None:
    """Raises MemPoolError where `pace` could not, or where nothing came of it."""
    # Elsewhere the number is another option's.
    if sys.platform != "linux":
        raise _unbounded(bytes_per_second, f"{sys.platform} has no SO_MAX_PACING_RATE, which Linux has")
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as stream:
        pace(stream, bytes_per_second)
        kept = int.from_bytes(stream.getsockopt(socket.SOL_SOCKET, _MAX_PACING_RATE, 8), sys.byteorder)
    if kept != bytes_per_second:
        raise _unbounded(bytes_per_second, f"this kernel made {kept} of it")


def _unbounded(bytes_per_second: int, why: str | None) -> MemPoolError:
    return MemPoolError(f"sending cannot be bounded to {bytes_per_second} bytes a second: {why}")
