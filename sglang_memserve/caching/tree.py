"""SGLang's radix cache, and the one place that touches its tree and allocator for others' KV.

All of it runs on SGLang's scheduler thread.
"""

import threading
from array import array
from collections import Counter
from collections.abc import Callable
from enum import StrEnum
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
import torch
from sglang.srt.mem_cache.base_prefix_cache import EvictParams, InsertParams, MatchPrefixParams
from sglang.srt.mem_cache.radix_cache import RadixKey
from sglang.srt.mem_cache.registry import create_unified_radix_cache, default_radix_cache_factory
from sglang.srt.mem_cache.unified_cache.component_type import ComponentType
from sglang.srt.mem_cache.unified_radix_cache import UnifiedRadixCache

if TYPE_CHECKING:
    from sglang_memserve.caching.agent import CachingAgent
    from sglang_memserve.caching.hbm import HbmIndex

# The longest name that the MemPool carries.
_MAX_NAMESPACE = 256


class Namespace(NamedTuple):
    """What keeps equal tokens apart in SGLang's tree: LoRA and extra key, and the cache salt."""

    extra_key: str | None
    cache_salt: str | None


def name_of(namespace: Namespace) -> str | None:
    """As the MemPool and all who follow it know it: in JSON, `[null,null]` where nothing keeps tokens apart.

    None for one that the MemPool cannot carry.
    """
    name = msgspec.json.encode(namespace).decode()
    return name if len(name) <= _MAX_NAMESPACE else None


class Adopted(StrEnum):
    """What became of KV that another instance sent."""

    INSERTED = "inserted"
    PRESENT = "present"
    GAP = "gap"
    FULL = "full"


class Held(NamedTuple):
    """Pages `[n]` (int64, host) of one request's KV. The tree keeps them until `release`."""

    pages: torch.Tensor
    lock: Any
    epoch: int


class MemServeRadixCache(UnifiedRadixCache):
    """`agent`, once it is there, hears of each request that ends; `hbm`, of each page that comes or goes."""

    def __init__(self, params: Any) -> None:
        self.agent: CachingAgent | None = None
        self.hbm: HbmIndex | None = None
        # A reset empties the pool: what was held or read before means nothing after it.
        self.epoch = 0
        self._flushing = threading.Lock()
        # Of requests that ended: tokens of prompts, and how many of them were cached here.
        self.prompts: Counter[str] = Counter()
        super().__init__(params)

    def reset(self) -> None:
        with self._flushing:
            self.epoch += 1
            if self.agent is not None:
                self.agent.flushed()
        super().reset()
        if self.hbm is not None:
            self.hbm.emptied()

    def unless_flushed(self, epoch: int, act: Callable[[], None]) -> bool:
        """Calls `act` if it is still that epoch, which it stays until that has returned. From any thread."""
        with self._flushing:
            if epoch != self.epoch:
                return False
            act()
            return True

    def match_prefix(self, params: Any) -> Any:
        found = super().match_prefix(params)
        if self.agent is None or params.req is None or self.disable:
            return found
        brought = self.agent.bring_in(params.key, params.req, int(found.device_prefix_len))
        if brought is not None:
            params.req.memserve_brought = brought
            found = super().match_prefix(params)
        params.req.memserve_here = int(found.device_prefix_len)
        return found

    def insert(self, params: Any) -> Any:
        result = super().insert(params)
        if self.hbm is not None:
            self.hbm.entered(params.key, params.value, result.prefix_len)
        return result

    def _drain_device_frees(self, device_frees: dict[ComponentType, list[torch.Tensor]]) -> None:
        if self.hbm is not None and ComponentType.FULL in device_frees:
            self.hbm.left(device_frees[ComponentType.FULL])
        super()._drain_device_frees(device_frees)

    def checkpoint(self, req: Any, *, up_to: int, **how: Any) -> None:
        super().checkpoint(req, up_to=up_to, **how)
        if self.agent is not None and req.finished():
            self.agent.finished(req, up_to)

    def on_release(self, req: Any, *, checkpointed: bool) -> None:
        super().on_release(req, checkpointed=checkpointed)
        if req.finished():
            self.prompts["prompt_tokens"] += len(req.origin_input_ids)
            self.prompts["prompt_tokens_cached"] += req.cached_tokens
            if self.agent is not None:
                self.agent.count_prompt(req)
        if self.agent is not None:
            self.agent.released(req)

    def hold(self, node: Any, first: int, stop: int) -> Held:
        """The pages of tokens `[first, stop)`, whole pages, on the path to `node`."""
        lock = self.lock(node)
        slots = self.path_device_indices(node)[first : stop : self.page_size]
        return Held((slots // self.page_size).to("cpu"), lock, self.epoch)

    def hold_more(
        self, tokens: npt.NDArray[np.int32], namespace: Namespace, first: int
    ) -> tuple[int, Held] | None:
        """How many of the tokens it has, and the pages of those from `first` on; None where it has none."""
        found = self.match_prefix(MatchPrefixParams(key=_key(tokens, namespace)))
        present = int(found.device_prefix_len)
        return (present, self.hold(found.last_device_node, first, present)) if present > first else None

    def release(self, held: Held) -> None:
        if held.epoch == self.epoch:
            self.unlock(held.lock)

    def known(self, tokens: npt.NDArray[np.int32], namespace: Namespace) -> int:
        """How many of the tokens it has."""
        found = self.match_prefix(MatchPrefixParams(key=_key(tokens, namespace)))
        return int(found.device_prefix_len)

    def adopt(
        self,
        tokens: npt.NDArray[np.int32],
        namespace: Namespace,
        first: int,
        write: Callable[[torch.Tensor, int], None],
    ) -> Adopted:
        """Takes in the KV of `tokens[first:]`, whole pages. `write(pages, skipped)` copies it to pages
        (int64 `[n]`, host), but for the first `skipped` pages of it. Raises what `write` raises.
        """
        key = _key(tokens, namespace)
        found = self.match_prefix(MatchPrefixParams(key=key))
        present = int(found.device_prefix_len)
        if present < first:
            return Adopted.GAP
        if present >= len(tokens):
            return Adopted.PRESENT
        lock = self.lock(found.last_device_node)
        try:
            slots = self._slots(len(tokens) - present)
            if slots is None:
                return Adopted.FULL
            self._fill(
                key, found.last_device_node, present, slots, lambda pages: write(pages, present - first)
            )
        finally:
            self.unlock(lock)
        return Adopted.INSERTED

    def _fill(
        self, key: Any, node: Any, present: int, slots: torch.Tensor, write: Callable[[torch.Tensor], None]
    ) -> None:
        try:
            write((slots[:: self.page_size] // self.page_size).to("cpu", torch.int64))
        except BaseException:
            self.token_to_kv_pool_allocator.free(slots)
            raise
        head = self.path_device_indices(node)[:present]
        self.insert(
            InsertParams(
                key=key,
                value=torch.cat([head, slots.to(head.dtype)]),
                prev_prefix_len=present,
                inserted_len=len(key),
            )
        )

    def _slots(self, count: int) -> torch.Tensor | None:
        allocator = self.token_to_kv_pool_allocator
        slots: torch.Tensor | None = allocator.alloc(count)
        if slots is None:
            self.evict_for_alloc(EvictParams(num_tokens=count - allocator.available_size()))
            slots = allocator.alloc(count)
        return slots


def _key(tokens: npt.NDArray[np.int32], namespace: Namespace) -> Any:
    return RadixKey(array("q", tokens.tolist()), namespace.extra_key, cache_salt=namespace.cache_salt)


def create(context: Any) -> Any:
    """SGLang's factory for `--radix-cache-backend memserve`.

    Raises RuntimeError where SGLang no longer has what evictions are seen by: they would go untold.
    """
    if not hasattr(UnifiedRadixCache, "_drain_device_frees"):
        raise RuntimeError("this SGLang has no UnifiedRadixCache._drain_device_frees: use a tested version")
    if context.is_hybrid_swa and context.full_tokens_per_layer == 0:
        # Of sliding windows alone: another tree, which knows nothing of us.
        return default_radix_cache_factory(context)
    return create_unified_radix_cache(context, cache_class=MemServeRadixCache)
