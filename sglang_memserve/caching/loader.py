"""KV in this instance's DRAM, copied into SGLang's tree."""

import logging
from collections.abc import Callable, Sequence

import torch

from mempool.address import Addresses
from mempool.arena import DramArena
from mempool.errors import MemPoolError
from mempool.paged import PagedBuffers
from mempool.results import MatchResult
from mempool.tiers.tier import copy_between, pages_of, staging_for
from sglang_memserve.caching.counters import Counters
from sglang_memserve.caching.namespace import Namespace
from sglang_memserve.caching.prefix_keys import TokenIds
from sglang_memserve.caching.tree import Adopted, MemServeRadixCache
from sglang_memserve.forward_stream import ForwardStream

logger = logging.getLogger(__name__)


class KVLoader:
    """For SGLang's scheduler thread. `buffers`: a view of SGLang's KV pool for that thread alone."""

    def __init__(
        self,
        tree: MemServeRadixCache,
        arena: DramArena,
        buffers: PagedBuffers,
        stream: ForwardStream,
        counters: Counters,
    ) -> None:
        self._tree = tree
        self._arena = arena
        self._buffers = buffers
        self._staging = staging_for(arena)
        self._stream = stream
        self._counters = counters

    def swap_in(self, found: MatchResult, tokens: TokenIds, namespace: Namespace) -> bool:
        """Loads what `found` has of the tokens. Returns whether that added anything to the tree."""
        try:
            outcome = self.load(tokens[: found.tokens], namespace, found.addresses, found.check)
        except MemPoolError as error:
            logger.warning("KV in DRAM was gone before it was read: %s", error)
            return False
        self._counters.add(f"dram_hits_{outcome}")
        return outcome is Adopted.INSERTED

    def load(
        self,
        tokens: TokenIds,
        namespace: Namespace,
        addresses: Sequence[Addresses],
        check: Callable[[], None],
    ) -> Adopted:
        """Into the tree, what these DRAM blocks hold: the last of the tokens.

        `check` is called after the blocks were read. It raises where others may have had them by then.
        """
        page_size = self._tree.page_size
        rows = torch.cat([pages_of(part) for part in addresses])

        def write(pages: torch.Tensor, skipped: int) -> None:
            needed = rows[skipped // page_size :]
            with self._counters.moving("swap_in", len(needed) * self._arena.layout.block_bytes):
                written = self._stream.record()
                copy_between(self._arena, needed, self._buffers, pages, self._staging, written)
            check()

        return self._tree.adopt(tokens, namespace, len(tokens) - len(rows) * page_size, write)
