"""Shared memory as torch has it."""

import weakref

import torch

from mempool.errors import MemPoolError
from mempool.shared_memory import SharedRegion


def page_locked(region: SharedRegion) -> torch.Tensor:
    """The region, uint8 `[size]`, pinned where CUDA is available, as long as `region` is there.

    Raises MemPoolError where CUDA does not pin it.
    """
    memory = torch.from_numpy(region.bytes)
    if torch.cuda.is_available():
        runtime = torch.cuda.cudart()
        failure = int(runtime.cudaHostRegister(memory.data_ptr(), memory.nbytes, 0))
        if failure:
            raise MemPoolError(f"CUDA does not pin {memory.nbytes} bytes of shared memory: error {failure}")
        weakref.finalize(region, runtime.cudaHostUnregister, memory.data_ptr())
    return memory
