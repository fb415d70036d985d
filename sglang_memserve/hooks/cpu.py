"""What SGLang computes with Triton where MemServe's CPU platform has none."""

from collections.abc import Callable
from typing import Any


def last_loc_without_triton(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """SGLang takes a Triton kernel for every attention backend whose name it does not know."""
    from sglang.srt.mem_cache.allocation import get_last_loc_torch

    return get_last_loc_torch(*args, **kwargs)
