"""What SGLang does with Triton and CUDA where MemServe's CPU platform has neither."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from sglang_memserve.cpu_host import on_cpu


def last_loc_without_triton(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """SGLang takes a Triton kernel for every attention backend whose name it does not know."""
    from sglang.srt.mem_cache.allocation import get_last_loc_torch

    return get_last_loc_torch(*args, **kwargs)


@contextlib.contextmanager
def without_cuda_events(scheduler: Any) -> Iterator[None]:
    """In the block, on a CPU, SGLang records no CUDA event for KV that it is about to send.

    The forwards that wrote it have ended by then.
    """
    if not (on_cpu() and scheduler.enable_overlap):
        yield
        return
    scheduler.enable_overlap = False
    try:
        yield
    finally:
        scheduler.enable_overlap = True
