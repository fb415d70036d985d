"""Sends answers' KV back to the prefill instance that served them, behind the requests that run."""

import logging
import queue
import threading
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from mempool.address import Addresses, Medium
from mempool.arena import DramArena
from mempool.errors import MemPoolError, OutOfBlocks
from mempool.paged import PagedBuffers
from mempool.pool import MemPool
from mempool.remote.sending import Flags, Landed
from mempool.tiers.tier import copy_between, pages_of
from sglang_memserve.caching.tree import Held

logger = logging.getLogger(__name__)

# What waits longer than this is not worth its bytes: the next turn has come, or nobody listens.
SECONDS = 10.0
_MAX_WAITING = 64


class Answer(NamedTuple):
    """KV of the last blocks of `tokens`, in the pages of `held`, there once `written` has happened."""

    instance: str
    tokens: npt.NDArray[np.int32]
    namespace: str
    held: Held
    written: torch.cuda.Event | None


class WriteBack:
    """One thread copies answers out of HBM and sends them. `put` and `done` never block.

    `is_current(epoch)`: whether the pool has not been emptied since.
    """

    def __init__(
        self, pool: MemPool, arena: DramArena, buffers: PagedBuffers, is_current: Callable[[int], bool]
    ) -> None:
        self._pool = pool
        self._arena = arena
        self._buffers = buffers
        self._is_current = is_current
        self._waiting: queue.SimpleQueue[Answer | None] = queue.SimpleQueue()
        self._done: deque[Held] = deque()
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._thread = threading.Thread(target=self._run, name="memserve-write-back", daemon=True)
        self._thread.start()

    def counters(self) -> dict[str, int]:
        with self._lock:
            return dict(self._counts)

    def put(self, answer: Answer) -> None:
        self._count("write_backs_offered")
        if self._waiting.qsize() < _MAX_WAITING:
            self._waiting.put(answer)
        else:
            self._drop(answer, "busy")

    def done(self) -> list[Held]:
        """What need not be held any longer."""
        return [self._done.popleft() for _ in range(len(self._done))]

    def close(self) -> None:
        self._waiting.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (answer := self._waiting.get()) is not None:
            try:
                self._send(answer)
            except Exception:
                logger.exception("sending an answer back to %s", answer.instance)

    def _send(self, answer: Answer) -> None:
        try:
            blocks = self._pool.alloc_mem(len(answer.held.pages), Medium.DRAM)
        except OutOfBlocks:
            self._drop(answer, "no_dram")
            return
        copied = False
        try:
            copied = self._copied(answer, blocks)
        finally:
            self._done.append(answer.held)
            if not copied:
                self._pool.free_mem(blocks)
        if not copied:
            self._count("write_backs_dropped_flushed")
            return
        self._begin(answer, blocks).add_done_callback(lambda landed: self._ended(blocks, landed))

    def _copied(self, answer: Answer, blocks: Addresses) -> bool:
        """Whether what was copied is the answer: a flush gives its pages to others."""
        if answer.written is not None:
            answer.written.synchronize()
        copy_between(self._buffers, answer.held.pages, self._arena, pages_of(blocks))
        return self._is_current(answer.held.epoch)

    def _begin(self, answer: Answer, blocks: Addresses) -> Future[Landed]:
        try:
            return self._pool.start.transfer_with_insert(
                answer.instance,
                answer.tokens,
                blocks,
                flags=Flags(medium=Medium.HBM),
                namespace=answer.namespace,
                seconds=SECONDS,
            )
        except (MemPoolError, ValueError) as error:
            failed: Future[Landed] = Future()
            failed.set_exception(error)
            return failed

    def _ended(self, blocks: Addresses, landed: Future[Landed]) -> None:
        error = landed.exception()
        self._count("write_backs_sent" if error is None else f"write_backs_failed_{type(error).__name__}")
        if error is not None:
            logger.debug("an answer was not taken: %s", error)
        try:
            self._pool.free_mem(blocks)
        except MemPoolError as stale:
            logger.debug("staging: %s", stale)

    def _drop(self, answer: Answer, reason: str) -> None:
        self._done.append(answer.held)
        self._count(f"write_backs_dropped_{reason}")

    def _count(self, name: str) -> None:
        with self._lock:
            self._counts[name] += 1
