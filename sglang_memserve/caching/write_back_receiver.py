"""Answers that decode instances have sent back, taken into SGLang's tree before the next requests."""

import logging

from mempool.engine import ReceivedBlocks
from mempool.errors import MemPoolError, StaleAddress
from mempool.pool import MemPool
from sglang_memserve.caching.answer_worker import AnswerWorker
from sglang_memserve.caching.counters import Counters
from sglang_memserve.caching.inbox import Inbox
from sglang_memserve.caching.loader import KVLoader
from sglang_memserve.caching.namespace import Namespace
from sglang_memserve.caching.pending_write_backs import PendingWriteBacks
from sglang_memserve.caching.tree import Adopted, MemServeRadixCache

logger = logging.getLogger(__name__)

# Forwards stand meanwhile: on a CPU the scheduler's thread copies, on CUDA they wait for the device's copy.
_MAX_BYTES_A_TICK = 64 << 20


class WriteBackReceiver:
    """For SGLang's scheduler thread. `inbox`: what others have sent to HBM, in DRAM blocks so far."""

    def __init__(
        self,
        inbox: Inbox[ReceivedBlocks],
        *,
        tree: MemServeRadixCache,
        pool: MemPool,
        loader: KVLoader,
        pending: PendingWriteBacks,
        answers: AnswerWorker,
        counters: Counters,
    ) -> None:
        self._inbox = inbox
        self._tree = tree
        self._pool = pool
        self._loader = loader
        self._pending = pending
        self._answers = answers
        self._counters = counters

    def tick(self) -> None:
        """Takes in what has come, up to a bound on its bytes, and gives its DRAM blocks back."""
        blocks = max(1, _MAX_BYTES_A_TICK // self._pool.local.layout.block_bytes)
        while blocks > 0 and (received := self._inbox.get()) is not None:
            blocks -= len(received.addresses)
            try:
                self._counters.add(f"write_backs_{self._take_in(received)}")
            except StaleAddress as error:
                # Others took this instance for dead meanwhile, and it has a new incarnation.
                logger.debug("KV from %s: %s", received.instance, error)
                self._counters.add("write_backs_stale")
            except Exception:
                logger.exception("KV from %s", received.instance)
                self._counters.add("write_backs_failed")
            finally:
                self._give_back(received)
        if len(self._inbox):
            self._inbox.wake()

    def _take_in(self, received: ReceivedBlocks) -> str:
        """Returns how it ended, as the name of its counter says."""
        tokens, page_size = received.tokens, self._tree.page_size
        if tokens is None or len(tokens) % page_size:
            raise MemPoolError("KV without its tokens, or of half a block")
        self._pending.receive(tokens, received.namespace)
        if int.from_bytes(received.private) != self._tree.cache_epoch:
            return "flushed"
        namespace = Namespace.from_name(received.namespace)
        outcome = self._loader.load(
            tokens, namespace, [received.addresses], lambda: self._require_own(received)
        )
        if outcome in (Adopted.INSERTED, Adopted.PRESENT):
            first = len(tokens) - len(received.addresses) * page_size
            self._answers.remember(tokens, first, received.namespace)
        return outcome

    def _require_own(self, received: ReceivedBlocks) -> None:
        if received.addresses.owner.incarnation != self._pool.info.incarnation:
            raise StaleAddress(received.addresses.owner, "the blocks are others' now")

    def _give_back(self, received: ReceivedBlocks) -> None:
        try:
            self._pool.free_mem(received.addresses)
        except MemPoolError as error:
            logger.debug("staging of %s: %s", received.instance, error)
