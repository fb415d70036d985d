"""What stock SGLang needs to split over Mooncake on a host without a GPU.

scripts/setup_peers.sh installs the entry point, `memserve_stock`, where only a peer's servers see it.
"""

import sys
from collections.abc import Callable
from typing import Any

import torch

from sglang_memserve.hook_targets import Target
from sglang_memserve.hooks.cpu import without_cuda_events


def register() -> None:
    """Keeps SGLang from CUDA's streams and events where there is no CUDA: Mooncake's sender would copy page
    numbers over one, and prefill record one before it sends what is cached.
    """
    if "mooncake" not in sys.argv or torch.cuda.is_available():
        return
    from sglang.srt.disaggregation.mooncake.conn import MooncakeKVSender
    from sglang.srt.plugins.hook_registry import HookRegistry, HookType

    MooncakeKVSender.supports_host_tensor_indices = False
    HookRegistry.register(Target.SEND_CACHED_PREFIX, _send_cached_prefix, HookType.AROUND)


def _send_cached_prefix(original: Callable[..., None], scheduler: Any, *args: Any, **kwargs: Any) -> None:
    with without_cuda_events(scheduler):
        original(scheduler, *args, **kwargs)
