"""SGLang's radix cache, and the one place that touches its tree and allocator for KV of other instances.

All of it but `unless_flushed` runs on SGLang's scheduler thread.
"""

import threading
from array import array
from collections import Counter
from collections.abc import Callable
from enum import StrEnum
from typing import Any, NamedTuple

import torch
from sglang.srt.mem_cache.base_prefix_cache import EvictParams, InsertParams, MatchPrefixParams
from sglang.srt.mem_cache.radix_cache import RadixKey
from sglang.srt.mem_cache.unified_cache.component_type import ComponentType
from sglang.srt.mem_cache.unified_radix_cache import UnifiedRadixCache

from sglang_memserve.caching.namespace import Namespace
from sglang_memserve.caching.prefix_keys import TokenIds
from sglang_memserve.caching.tree_observers import PageObserver, RequestObserver
from sglang_memserve.request_state import request_state


class Adopted(StrEnum):
    """What became of KV that was to enter the tree. The values end the names of counters."""

    INSERTED = "inserted"
    PRESENT = "present"
    GAP = "gap"
    FULL = "full"


class HeldPages(NamedTuple):
    """Pages `[n]` (int64, on the pool's device) of one request's KV. The tree keeps them until `release`."""

    pages: torch.Tensor
    lock: Any
    cache_epoch: int


class MemServeRadixCache(UnifiedRadixCache):
    """SGLang's tree, with observers of its requests and pages from `observe` on."""

    def __init__(self, params: Any) -> None:
        self._requests: RequestObserver | None = None
        self._pages: PageObserver | None = None
        # A reset empties the pool: what was held or read before it means nothing after it.
        self.cache_epoch = 0
        self._flushing = threading.Lock()
        # Sums over requests that ended: tokens of prompts, and how many of them SGLang reports as cached.
        self.prompts: Counter[str] = Counter()
        super().__init__(params)

    def observe(self, requests: RequestObserver, pages: PageObserver) -> None:
        """Calls these from now on."""
        self._requests, self._pages = requests, pages

    def reset(self) -> None:
        with self._flushing:
            self.cache_epoch += 1
            if self._requests is not None:
                self._requests.on_flush()
        super().reset()
        if self._pages is not None:
            self._pages.on_reset()

    def unless_flushed(self, cache_epoch: int, act: Callable[[], None]) -> bool:
        """Calls `act` if the cache is still of that epoch, and delays flushes until it returns.

        Returns whether it called. From any thread.
        """
        with self._flushing:
            if cache_epoch != self.cache_epoch:
                return False
            act()
            return True

    def match_prefix(self, params: Any) -> Any:
        found = super().match_prefix(params)
        if self._requests is None or params.req is None or self.disable:
            return found
        state = request_state(params.req)
        loaded = self._requests.load_prefix(params.key, params.req, int(found.device_prefix_len))
        if loaded is not None:
            state.loaded = loaded
            found = super().match_prefix(params)
        state.prefix_tokens = int(found.device_prefix_len)
        return found

    def insert(self, params: Any) -> Any:
        result = super().insert(params)
        if self._pages is not None:
            self._pages.on_insert(params.key, params.value, result.prefix_len)
        return result

    def _drain_device_frees(self, device_frees: dict[ComponentType, list[torch.Tensor]]) -> None:
        if self._pages is not None and ComponentType.FULL in device_frees:
            self._pages.on_free(device_frees[ComponentType.FULL])
        super()._drain_device_frees(device_frees)

    def checkpoint(self, req: Any, *, up_to: int, **how: Any) -> None:
        super().checkpoint(req, up_to=up_to, **how)
        if self._requests is not None and req.finished():
            self._requests.on_finish(req, up_to)

    def on_release(self, req: Any, *, checkpointed: bool) -> None:
        super().on_release(req, checkpointed=checkpointed)
        finished = req.finished()
        if finished:
            self.prompts["prompt_tokens"] += len(req.origin_input_ids)
            self.prompts["prompt_tokens_cached"] += req.cached_tokens
        if self._requests is not None:
            self._requests.on_release(req, finished)

    def hold(self, node: Any, first: int, stop: int) -> HeldPages:
        """Locks the path to `node`; returns its pages of tokens `[first, stop)`, which are whole pages."""
        lock = self.lock(node)
        slots = self.path_device_indices(node)[first : stop : self.page_size]
        return HeldPages(slots // self.page_size, lock, self.cache_epoch)

    def hold_from(self, tokens: TokenIds, namespace: Namespace, first: int) -> tuple[int, HeldPages] | None:
        """How many of the tokens the tree has, and its pages of those from `first` on; None for no pages."""
        found = self.match_prefix(MatchPrefixParams(key=_key(tokens, namespace)))
        present = int(found.device_prefix_len)
        return (present, self.hold(found.last_device_node, first, present)) if present > first else None

    def release(self, held: HeldPages) -> None:
        if held.cache_epoch == self.cache_epoch:
            self.unlock(held.lock)

    def prefix_length(self, tokens: TokenIds, namespace: Namespace) -> int:
        """How many of the tokens, from the first on, the tree has."""
        found = self.match_prefix(MatchPrefixParams(key=_key(tokens, namespace)))
        return int(found.device_prefix_len)

    def adopt(
        self,
        tokens: TokenIds,
        namespace: Namespace,
        first: int,
        write: Callable[[torch.Tensor, int], None],
    ) -> Adopted:
        """Takes in the KV of `tokens[first:]`, whole pages.

        `write(pages, skipped)` copies the KV, without its first `skipped` tokens, to these pages (int64
        `[n]`, on the pool's device), or makes all that is launched from then on wait for that copy. Raises
        what `write` raises; the tree is then as it was.
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
            slots = self._alloc(len(tokens) - present)
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
            write((slots[:: self.page_size] // self.page_size).to(torch.int64))
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

    def _alloc(self, count: int) -> torch.Tensor | None:
        allocator = self.token_to_kv_pool_allocator
        slots: torch.Tensor | None = allocator.alloc(count)
        if slots is None:
            self.evict_for_alloc(EvictParams(num_tokens=count - allocator.available_size()))
            slots = allocator.alloc(count)
        return slots


def _key(tokens: TokenIds, namespace: Namespace) -> Any:
    return RadixKey(array("q", tokens.tolist()), namespace.extra_key, cache_salt=namespace.cache_salt)
