"""SGLang's factory for `--radix-cache-backend memserve`."""

from typing import Any

from sglang.srt.mem_cache.registry import create_unified_radix_cache, default_radix_cache_factory
from sglang.srt.mem_cache.unified_radix_cache import UnifiedRadixCache

from sglang_memserve.caching.tree import MemServeRadixCache


def create(context: Any) -> Any:
    """Raises RuntimeError where SGLang lacks the method by which evictions are observed."""
    if not hasattr(UnifiedRadixCache, "_drain_device_frees"):
        raise RuntimeError("this SGLang has no UnifiedRadixCache._drain_device_frees: use a tested version")
    if context.is_hybrid_swa and context.full_tokens_per_layer == 0:
        # A model with sliding windows alone has another kind of tree, which cannot be observed.
        return default_radix_cache_factory(context)
    return create_unified_radix_cache(context, cache_class=MemServeRadixCache)
