"""Answers that decode sends back to the prefill instances that computed their prompts."""

import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future

from mempool.address import Addresses, Medium
from mempool.errors import MemPoolError
from mempool.flags import TransferFlags
from mempool.pool import MemPool
from mempool.results import TransferResult
from sglang_memserve.caching.counters import Counters
from sglang_memserve.caching.finished_kv import FinishedKV, WriteBackTarget

logger = logging.getLogger(__name__)

# After that the bytes are not worth sending: the next turn has come, or the instance does not answer.
_TIMEOUT_S = 10.0


class WriteBackSender:
    """Begins transfers from DRAM, and counts how they end. It waits for none of them.

    `publishes`: whether DRAM is a tier: then the published blocks are sent, else the staged ones.
    """

    def __init__(self, pool: MemPool, publishes: bool, counters: Counters) -> None:
        self._pool = pool
        self._publishes = publishes
        self._block_bytes = pool.local.layout.block_bytes
        self._counters = counters

    def send(self, finished: FinishedKV, target: WriteBackTarget, staged: Addresses) -> None:
        """`staged`: the DRAM blocks of `finished`, which are given back when the transfer ends."""
        source, give_back = self._source(finished, target, staged)
        if source is None:
            give_back()
            self._counters.add("write_backs_dropped_evicted")
            return
        began, offered = time.monotonic(), sum(map(len, source))
        transfer = self._begin(finished, target, source)
        transfer.add_done_callback(lambda ended: self._on_ended(ended, began, offered, give_back))

    def _source(
        self, finished: FinishedKV, target: WriteBackTarget, staged: Addresses
    ) -> tuple[Sequence[Addresses] | None, Callable[[], None]]:
        """The answer's blocks in DRAM, None where they were evicted; and what gives them back."""
        if not self._publishes:
            return [staged[target.first - finished.first :]], lambda: self._pool.free_mem(staged)
        found = self._pool.match(finished.tokens, namespace=finished.namespace, lease_s=2 * _TIMEOUT_S)
        is_whole = found.tokens == len(finished.tokens)
        return (_after(found.addresses, target.first) if is_whole else None), found.release

    def _begin(
        self, finished: FinishedKV, target: WriteBackTarget, source: Sequence[Addresses]
    ) -> Future[TransferResult]:
        try:
            return self._pool.start.transfer_with_insert(
                target.instance,
                finished.tokens,
                source,
                flags=TransferFlags(medium=Medium.HBM),
                private=target.private,
                namespace=finished.namespace,
                timeout_s=_TIMEOUT_S,
            )
        except (MemPoolError, ValueError) as error:
            failed: Future[TransferResult] = Future()
            failed.set_exception(error)
            return failed

    def _on_ended(
        self, transfer: Future[TransferResult], began: float, offered: int, give_back: Callable[[], None]
    ) -> None:
        """On the thread that ended the transfer."""
        error = transfer.exception()
        if error is None:
            sent = offered - transfer.result().present
            self._counters.moved("write_back", sent * self._block_bytes, began)
            self._counters.add("write_backs_sent")
        else:
            self._counters.add(f"write_backs_failed_{type(error).__name__}")
            logger.debug("an answer was not written back: %s", error)
        try:
            give_back()
        except MemPoolError as stale:
            logger.debug("the blocks of a written-back answer: %s", stale)


def _after(addresses: Sequence[Addresses], first: int) -> list[Addresses]:
    """All but the first `first` blocks."""
    skipped, parts = first, []
    for part in addresses:
        if skipped < len(part):
            parts.append(part[skipped:])
        skipped = max(0, skipped - len(part))
    return parts
