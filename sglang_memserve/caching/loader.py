"""KV in this instance's DRAM, copied into SGLang's tree."""

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

from mempool.address import Addresses
from mempool.arena import DramArena
from mempool.device import DeviceEvent
from mempool.errors import MemPoolError
from mempool.local import LocalPool
from mempool.paged import PagedBuffers
from mempool.results import MatchResult
from mempool.tiers.copies import BlockCopies, pages_of
from sglang_memserve.caching.counters import Counters
from sglang_memserve.caching.namespace import Namespace
from sglang_memserve.caching.prefix_keys import TokenIds
from sglang_memserve.caching.tree import Adopted, MemServeRadixCache
from sglang_memserve.forward_stream import ForwardStream

logger = logging.getLogger(__name__)


class _Load(NamedTuple):
    """A copy that the device does by itself, until it is past `done`. It reads `pages` too."""

    done: DeviceEvent
    pages: torch.Tensor
    release: Callable[[], None]
    num_bytes: int
    began: float


class KVLoader:
    """For SGLang's scheduler thread. `buffers`: a view of SGLang's KV pool for that thread alone.

    Where the device runs ahead, a load is on its way when a method returns: what is launched from then on
    waits for it, on the device, and the DRAM blocks are kept until a `tick` finds it done.
    """

    def __init__(
        self,
        tree: MemServeRadixCache,
        pool: LocalPool,
        arena: DramArena,
        buffers: PagedBuffers,
        stream: ForwardStream,
        counters: Counters,
    ) -> None:
        self._tree = tree
        self._pool = pool
        self._arena = arena
        self._buffers = buffers
        self._copies = None if buffers.device.runs_ahead else BlockCopies(arena, buffers)
        self._stream = stream
        self._counters = counters
        self._loads: deque[_Load] = deque()

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

        `check` raises where others may have had the blocks by then. It is called once they were read, or are
        kept. The caller may give them back when this returns.
        """
        page_size = self._tree.page_size
        rows = torch.cat([pages_of(part) for part in addresses])

        def write(pages: torch.Tensor, skipped: int) -> None:
            needed = rows[skipped // page_size :]
            if self._copies is None:
                self._begin(needed, pages, addresses, check)
                return
            with self._counters.moving("swap_in", len(needed) * self._arena.layout.block_bytes):
                self._copies.copy(needed, pages)
            check()

        return self._tree.adopt(tokens, namespace, len(tokens) - len(rows) * page_size, write)

    def tick(self) -> None:
        """Lets go of the DRAM blocks of loads that are done."""
        while self._loads and self._loads[0].done.query():
            self._end(self._loads.popleft())

    def close(self) -> None:
        """Returns once the device reads no DRAM blocks any more."""
        while self._loads:
            self._loads[0].done.synchronize()
            self._end(self._loads.popleft())

    def _begin(
        self,
        rows: torch.Tensor,
        pages: torch.Tensor,
        addresses: Sequence[Addresses],
        check: Callable[[], None],
    ) -> None:
        release = self._pool.keep(addresses)
        began, num_bytes = time.monotonic(), len(rows) * self._arena.layout.block_bytes
        try:
            check()
            self._buffers.begin_scatter(pages, self._arena.parts(rows), self._stream.record())
        finally:
            # Also where only some of it was launched: others get the pages then.
            done = self._buffers.record()
            self._stream.wait_for(done)
            self._loads.append(_Load(done, pages, release, num_bytes, began))

    def _end(self, load: _Load) -> None:
        load.release()
        self._counters.moved("swap_in", load.num_bytes, load.began)
