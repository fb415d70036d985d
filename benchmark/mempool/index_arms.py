"""Our index, SGLang's radix tree in Python and its core in Rust, each behind the same calls."""

from array import array
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Protocol

import numpy as np

from mempool.address import Addresses, Medium, Owner
from mempool.index.index import Index

PAGE, TOKENS = 16, 4096
BLOCKS = TOKENS // PAGE
VOCABULARY = 150_000
_NAMESPACE = "bench"

Step = Callable[[], object]


def sequence(number: int) -> "array[int]":
    """4,096 tokens, the same for the same number, with no prefix in common with another's."""
    tokens = array("q")
    tokens.frombytes(np.random.default_rng(number).integers(0, VOCABULARY, TOKENS).tobytes())
    return tokens


class IndexArm(Protocol):
    """What a caller would have at hand is made before, and not timed."""

    name: str

    def matcher(self, tokens: "array[int]") -> Callable[[], int]:
        """Gives the number of tokens that match."""

    def inserter(self, tokens: "array[int]", known: int) -> Step:
        """Publishes `tokens`, of which the first `known` are in the index."""

    def make_room(self) -> bool:
        """Evicts 4,096 tokens; False where this arm cannot by itself."""


class Ours:
    name = "memserve"

    def __init__(self) -> None:
        self._index = Index(PAGE, on_freed=lambda _: None)
        self._owner = Owner("bench", 1, Medium.DRAM)
        self._blocks = 0

    def matcher(self, tokens: "array[int]") -> Callable[[], int]:
        return lambda: self._index.match(_NAMESPACE, tokens).tokens

    def inserter(self, tokens: "array[int]", known: int) -> Step:
        first, self._blocks = self._blocks, self._blocks + (len(tokens) - known) // PAGE
        blocks = Addresses(self._owner, np.arange(first, self._blocks, dtype=np.int32))
        return partial(self._index.insert, _NAMESPACE, tokens, [blocks])

    def make_room(self) -> bool:
        return self._index.evict(self._owner, BLOCKS) == BLOCKS


class _OfSGLang:
    """`insert` gets the value of all tokens, as SGLang's own callers give it."""

    def __init__(self) -> None:
        import torch
        from sglang.srt.mem_cache.base_prefix_cache import InsertParams, MatchPrefixParams
        from sglang.srt.mem_cache.radix_cache import RadixKey

        torch.set_num_threads(1)
        self._slots = torch.arange
        self._key, self._match_params, self._insert_params = RadixKey, MatchPrefixParams, InsertParams
        self._tokens = 0

    def matcher(self, tokens: "array[int]") -> Callable[[], int]:
        params = self._match_params(key=self._key(tokens))
        return lambda: int(self._match(params))

    def inserter(self, tokens: "array[int]", known: int) -> Step:
        first, self._tokens = self._tokens - known, self._tokens - known + len(tokens)
        value = self._slots(first, self._tokens)
        return partial(self._insert, self._insert_params(key=self._key(tokens), value=value))

    def make_room(self) -> bool:
        return False

    def _match(self, params: Any) -> int:
        raise NotImplementedError

    def _insert(self, params: Any) -> None:
        raise NotImplementedError


class NullAllocator:
    """For the slots that `evict` gives back."""

    device = "cpu"

    def free_segment(self, slots: object, start_pos: int) -> None:
        pass


class RadixCacheArm(_OfSGLang):
    name = "RadixCache"

    def __init__(self) -> None:
        super().__init__()
        from sglang.srt.mem_cache.base_prefix_cache import EvictParams
        from sglang.srt.mem_cache.radix_cache import RadixCache

        self._cache = RadixCache.create_simulated(page_size=PAGE, mock_allocator=NullAllocator())
        self._room = EvictParams(num_tokens=TOKENS)

    def make_room(self) -> bool:
        return int(self._cache.evict(self._room).num_tokens_evicted) >= TOKENS

    def _match(self, params: Any) -> int:
        return int(self._cache.match_prefix(params).device_prefix_len)

    def _insert(self, params: Any) -> None:
        self._cache.insert(params)


class Rust(_OfSGLang):
    name = "Rust core"

    def __init__(self) -> None:
        super().__init__()
        from sglang.srt.mem_cache.cache_init_params import CacheInitParams
        from sglang.srt.mem_cache.rust_tree_core.adapter import RustUnifiedTreeCore
        from sglang.srt.mem_cache.unified_cache.component_type import ComponentType

        params = CacheInitParams(
            disable=False,
            req_to_token_pool=None,
            token_to_kv_pool_allocator=None,
            page_size=PAGE,
            tree_components=(ComponentType.FULL,),
        )
        self._core = RustUnifiedTreeCore(params)

    def _match(self, params: Any) -> int:
        return int(self._core.match_prefix(params).device_prefix_len)

    def _insert(self, params: Any) -> None:
        step = self._core.begin_insert(params)
        while step.result is None:
            step = self._core.resume_insert()
        self._core.end_insert()


ARMS: dict[str, Callable[[], IndexArm]] = {
    Ours.name: Ours,
    RadixCacheArm.name: RadixCacheArm,
    Rust.name: Rust,
}


def steps(arm: IndexArm, tokens: "array[int]", node_tokens: int) -> Iterator[Step]:
    """Inserting one new sequence, `node_tokens` a call: as many nodes as calls."""
    for end in range(node_tokens, len(tokens) + 1, node_tokens):
        yield arm.inserter(tokens[:end], end - node_tokens)


def fill(arm: IndexArm, first: int, count: int, node_tokens: int) -> None:
    """Sequences `first` and on."""
    for number in range(first, first + count):
        for step in steps(arm, sequence(number), node_tokens):
            step()
