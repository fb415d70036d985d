"""KV of requests that ended, copied from HBM to DRAM behind the requests that run, and published there."""

import logging
import queue
import threading
from collections import deque
from collections.abc import Callable

from mempool.address import Addresses, Medium
from mempool.arena import DramArena
from mempool.errors import OutOfBlocks
from mempool.paged import PagedBuffers
from mempool.pool import MemPool
from mempool.tiers.copies import BlockCopies, pages_of
from sglang_memserve.caching.counters import Counters
from sglang_memserve.caching.finished_kv import FinishedKV
from sglang_memserve.caching.tree import HeldPages
from sglang_memserve.caching.write_back import WriteBackSender

logger = logging.getLogger(__name__)

_MAX_WAITING = 64


class KVOffloader:
    """One thread copies, publishes and hands answers to `write_backs`. `put` and `drain_done` never block.

    `buffers`: a view of SGLang's KV pool for that thread alone. `publishes`: whether DRAM is a tier, and does
    not only stage write-backs. `unless_flushed`: see `MemServeRadixCache`.
    """

    def __init__(
        self,
        pool: MemPool,
        arena: DramArena,
        buffers: PagedBuffers,
        *,
        publishes: bool,
        unless_flushed: Callable[[int, Callable[[], None]], bool],
        write_backs: WriteBackSender,
        counters: Counters,
    ) -> None:
        self._pool = pool
        self._buffers = buffers
        self._copies = BlockCopies(buffers, arena)
        self._publishes = publishes
        self._unless_flushed = unless_flushed
        self._write_backs = write_backs
        self._counters = counters
        self._waiting: queue.SimpleQueue[FinishedKV | None] = queue.SimpleQueue()
        self._done: deque[HeldPages] = deque()
        self._thread = threading.Thread(target=self._run, name="memserve-offload", daemon=True)
        self._thread.start()

    def put(self, finished: FinishedKV) -> None:
        """Drops it, counted, where too much waits."""
        if finished.target is not None:
            self._counters.add("write_backs_offered")
        if self._waiting.qsize() < _MAX_WAITING:
            self._waiting.put(finished)
        else:
            self._done.append(finished.held)
            self._count_drop(finished, "busy")
            finished.on_done()

    def drain_done(self) -> list[HeldPages]:
        """Pages that need not be held any longer."""
        return [self._done.popleft() for _ in range(len(self._done))]

    def close(self) -> None:
        """Returns once all that waits has been copied and published."""
        self._waiting.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (finished := self._waiting.get()) is not None:
            try:
                try:
                    self._offload(finished)
                finally:
                    finished.on_done()
            except Exception:
                logger.exception("KV of a request that ended is not offloaded")

    def _offload(self, finished: FinishedKV) -> None:
        try:
            blocks = self._copy(finished)
        finally:
            self._done.append(finished.held)
        if blocks is None:
            return
        if not self._unless_flushed(finished.held.cache_epoch, lambda: self._publish(finished, blocks)):
            # Another request may have written to the pages while they were copied.
            self._pool.free_mem(blocks)
            self._count_drop(finished, "flushed")
        elif finished.target is not None:
            self._write_backs.send(finished, finished.target, blocks)

    def _copy(self, finished: FinishedKV) -> Addresses | None:
        """To DRAM blocks; None where there is no room."""
        try:
            blocks = self._pool.alloc_mem(len(finished.held.pages), Medium.DRAM)
        except OutOfBlocks:
            self._count_drop(finished, "no_dram")
            return None
        if finished.written is not None:
            finished.written.synchronize()
        with self._counters.moving("swap_out", len(blocks) * self._buffers.layout.block_bytes):
            self._copies.copy(finished.held.pages, pages_of(blocks))
        return blocks

    def _publish(self, finished: FinishedKV, blocks: Addresses) -> None:
        if not self._publishes:
            return
        try:
            returned = self._pool.insert(finished.tokens, blocks, namespace=finished.namespace)
        except ValueError:
            # The blocks before these were evicted meanwhile.
            returned = [blocks]
        self._pool.free_mem(returned)
        self._counters.add("dram_blocks_published", len(blocks) - sum(map(len, returned)))

    def _count_drop(self, finished: FinishedKV, reason: str) -> None:
        kind = "dram" if finished.target is None else "write_backs"
        self._counters.add(f"{kind}_dropped_{reason}")
