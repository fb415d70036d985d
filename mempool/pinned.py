"""Host memory that a CUDA device copies to and from by itself: what is asked for, and no more.

PyTorch's pinned memory comes in powers of two: 33 GiB of it pin 64.
"""

import mmap
import weakref
from collections.abc import Callable
from typing import Protocol

import torch

from mempool.errors import MemPoolError

# A single registration of all of a large DRAM tier may be refused.
_CHUNK_BYTES = 1 << 30


class CudaRuntime(Protocol):
    """What is used of CUDA's runtime. Each call returns 0, or an error."""

    def cudaHostRegister(self, address: int, size: int, flags: int) -> int: ...

    def cudaHostUnregister(self, address: int) -> int: ...


class _Mapping(mmap.mmap):
    """Anonymous memory. A finalizer of a subclass's object runs before its memory is unmapped."""


def chunk_rows(row_bytes: int) -> int:
    """How many rows are registered together. A copy must not go beyond them."""
    rows_a_page = mmap.PAGESIZE // _power_of_two_in(row_bytes, mmap.PAGESIZE)
    return max(1, _CHUNK_BYTES // row_bytes // rows_a_page) * rows_a_page


def pinned_memory(count: int, row_bytes: int, runtime: CudaRuntime) -> torch.Tensor:
    """uint8 `[count]`, whole rows, pinned until the last view of it is gone. Raises as `pin`."""
    mapping = _Mapping(-1, count)
    return pin(torch.frombuffer(mapping, dtype=torch.uint8), mapping, row_bytes, runtime)


def pin(memory: torch.Tensor, owner: object, row_bytes: int, runtime: CudaRuntime) -> torch.Tensor:
    """Pins `memory`, uint8 `[n]`, whole rows from a page of memory on, until its `owner` is gone.

    Raises MemPoolError where CUDA does not take it.
    """
    taken: list[int] = []
    # Registered with the process, it goes with it: at its end there may be no runtime any more.
    weakref.finalize(owner, _unregister, taken, runtime.cudaHostUnregister).atexit = False
    count, size = memory.nbytes, chunk_rows(row_bytes) * row_bytes
    for start in range(0, count, size):
        address, part = memory.data_ptr() + start, min(size, count - start)
        error = int(runtime.cudaHostRegister(address, part, 0))
        if error:
            raise MemPoolError(
                f"CUDA cannot pin {part} of {count} bytes of host memory (error {error}): lower "
                "--memserve-dram, or raise the limit on locked memory (ulimit -l)"
            )
        taken.append(address)
    return memory


def _unregister(addresses: list[int], unregister: Callable[[int], int]) -> None:
    for address in addresses:
        unregister(address)


def _power_of_two_in(number: int, largest: int) -> int:
    """The largest power of two that divides both."""
    return min(number & -number, largest)
