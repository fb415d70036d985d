"""KV of requests that ended, behind those that run: to DRAM, where it is published, and back to prefill."""

import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from mempool.address import Addresses, Medium
from mempool.arena import DramArena
from mempool.errors import MemPoolError, OutOfBlocks
from mempool.flags import TransferFlags
from mempool.paged import PagedBuffers
from mempool.pool import MemPool
from mempool.results import TransferResult
from mempool.tiers.tier import copy_between, pages_of, staging_for
from sglang_memserve.caching.counters import Counters
from sglang_memserve.caching.tree import Held

logger = logging.getLogger(__name__)

# What takes longer is not worth its bytes: the next turn has come, or nobody listens.
SECONDS = 10.0
_MAX_WAITING = 64


class WriteBackTarget(NamedTuple):
    """Where the answer, which begins at block `first`, is sent back to, and the cookie that goes with it."""

    instance: str
    first: int
    private: bytes


class FinishedKV(NamedTuple):
    """KV of `tokens`, whole blocks, from block `first` on: in the pages of `held`, after `written`.

    `then` is called when all is done that will be.
    """

    tokens: npt.NDArray[np.int32]
    namespace: str
    first: int
    held: Held
    written: torch.cuda.Event | None
    back: WriteBackTarget | None = None
    then: Callable[[], None] = lambda: None


class Outgoing:
    """One thread does it all. `put` and `done` never block.

    `publishes`: whether DRAM is a tier, or only on the way. `unless_flushed(epoch, act)` calls `act` unless
    the engine's cache was flushed since that epoch; says whether it did.
    """

    def __init__(
        self,
        pool: MemPool,
        arena: DramArena,
        buffers: PagedBuffers,
        publishes: bool,
        unless_flushed: Callable[[int, Callable[[], None]], bool],
        counts: Counters,
    ) -> None:
        self._pool = pool
        self._arena = arena
        self._buffers = buffers
        self._block_bytes = buffers.layout.block_bytes
        self._staging = staging_for(buffers)
        self._publishes = publishes
        self._unless_flushed = unless_flushed
        self._waiting: queue.SimpleQueue[FinishedKV | None] = queue.SimpleQueue()
        self._done: deque[Held] = deque()
        self._counts = counts
        self._thread = threading.Thread(target=self._run, name="memserve-outgoing", daemon=True)
        self._thread.start()

    def put(self, ended: FinishedKV) -> None:
        if ended.back is not None:
            self._counts.add("write_backs_offered")
        if self._waiting.qsize() < _MAX_WAITING:
            self._waiting.put(ended)
        else:
            self._done.append(ended.held)
            self._drop(ended, "busy")
            ended.then()

    def done(self) -> list[Held]:
        """What need not be held any longer."""
        return [self._done.popleft() for _ in range(len(self._done))]

    def close(self) -> None:
        self._waiting.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (ended := self._waiting.get()) is not None:
            try:
                try:
                    self._take(ended)
                finally:
                    ended.then()
            except Exception:
                logger.exception("KV of a request that ended")

    def _take(self, ended: FinishedKV) -> None:
        try:
            blocks = self._copied(ended)
        finally:
            self._done.append(ended.held)
        if blocks is None:
            return
        if not self._unless_flushed(ended.held.epoch, lambda: self._publish(ended, blocks)):
            # Its pages may have been others' while they were copied.
            self._pool.free_mem(blocks)
            self._drop(ended, "flushed")
        elif ended.back is not None:
            self._send(ended, ended.back, blocks)

    def _copied(self, ended: FinishedKV) -> Addresses | None:
        try:
            blocks = self._pool.alloc_mem(len(ended.held.pages), Medium.DRAM)
        except OutOfBlocks:
            self._drop(ended, "no_dram")
            return None
        if ended.written is not None:
            ended.written.synchronize()
        with self._counts.moving("swap_out", len(blocks) * self._block_bytes):
            copy_between(self._buffers, ended.held.pages, self._arena, pages_of(blocks), self._staging)
        return blocks

    def _publish(self, ended: FinishedKV, blocks: Addresses) -> None:
        if not self._publishes:
            return
        try:
            returned = self._pool.insert(ended.tokens, blocks, namespace=ended.namespace)
        except ValueError:
            # What comes before it was evicted meanwhile.
            returned = [blocks]
        self._pool.free_mem(returned)
        self._counts.add("dram_blocks_published", len(blocks) - sum(map(len, returned)))

    def _send(self, ended: FinishedKV, back: WriteBackTarget, blocks: Addresses) -> None:
        source, give_back = self._source(ended, back, blocks)
        if source is None:
            give_back()
            self._drop(ended, "evicted")
            return
        began, offered = time.monotonic(), sum(map(len, source))
        sent = self._begin(ended, back, source)
        sent.add_done_callback(lambda landed: self._sent(landed, began, offered, give_back))

    def _source(
        self, ended: FinishedKV, back: WriteBackTarget, blocks: Addresses
    ) -> tuple[Sequence[Addresses] | None, Callable[[], None]]:
        """The answer's blocks in DRAM, None where they are gone; and what to call when they are sent."""
        if not self._publishes:
            return [blocks[back.first - ended.first :]], lambda: self._pool.free_mem(blocks)
        found = self._pool.match(ended.tokens, namespace=ended.namespace, lease_s=2 * SECONDS)
        whole = found.tokens == len(ended.tokens)
        return (_after(found.addresses, back.first) if whole else None), found.release

    def _begin(
        self, ended: FinishedKV, back: WriteBackTarget, source: Sequence[Addresses]
    ) -> Future[TransferResult]:
        try:
            return self._pool.start.transfer_with_insert(
                back.instance,
                ended.tokens,
                source,
                flags=TransferFlags(medium=Medium.HBM),
                private=back.private,
                namespace=ended.namespace,
                timeout_s=SECONDS,
            )
        except (MemPoolError, ValueError) as error:
            failed: Future[TransferResult] = Future()
            failed.set_exception(error)
            return failed

    def _sent(
        self, landed: Future[TransferResult], began: float, offered: int, give_back: Callable[[], None]
    ) -> None:
        error = landed.exception()
        if error is None:
            sent = offered - landed.result().present
            self._counts.moved("write_back", sent * self._block_bytes, began)
            self._counts.add("write_backs_sent")
        else:
            self._counts.add(f"write_backs_failed_{type(error).__name__}")
            logger.debug("an answer was not taken: %s", error)
        try:
            give_back()
        except MemPoolError as stale:
            logger.debug("an answer's blocks: %s", stale)

    def _drop(self, ended: FinishedKV, reason: str) -> None:
        self._counts.add(f"{'write_backs' if ended.back is not None else 'dram'}_dropped_{reason}")


def _after(addresses: Sequence[Addresses], first: int) -> list[Addresses]:
    """All but the first blocks."""
    left, found = first, []
    for part in addresses:
        if left < len(part):
            found.append(part[left:])
        left = max(0, left - len(part))
    return found
