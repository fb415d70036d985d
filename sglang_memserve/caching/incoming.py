"""KV in this instance's DRAM that belongs into SGLang's tree: answers that came back, and what prompts need.

All of it runs on SGLang's scheduler thread.
"""

import logging
from collections import deque
from collections.abc import Callable, Sequence

import msgspec
import torch

from mempool.address import Addresses, BlockNumbers
from mempool.arena import DramArena
from mempool.engine import ReceivedBlocks
from mempool.errors import MemPoolError, StaleAddress
from mempool.paged import PagedBuffers
from mempool.pool import MemPool
from mempool.results import MatchResult
from mempool.tiers.tier import copy_between, pages_of, staging_for
from sglang_memserve.caching.counters import Counters
from sglang_memserve.caching.pending_write_backs import PendingWriteBacks
from sglang_memserve.caching.reencoded import Reencoded
from sglang_memserve.caching.tree import Adopted, MemServeRadixCache, Namespace

logger = logging.getLogger(__name__)


class Incoming:
    """`arrived`: where the MemPool puts what others send to HBM. `forward_event`: of what the engine has
    launched by now, on CUDA.
    """

    def __init__(
        self,
        tree: MemServeRadixCache,
        pool: MemPool,
        arena: DramArena,
        to_hbm: PagedBuffers,
        arrived: deque[ReceivedBlocks],
        answers: Reencoded,
        awaited: PendingWriteBacks,
        counts: Counters,
        forward_event: Callable[[], torch.cuda.Event | None],
    ) -> None:
        self._tree = tree
        self._pool = pool
        self._arena = arena
        self._to_hbm = to_hbm
        self._staging = staging_for(arena)
        self._arrived = arrived
        self._answers = answers
        self._awaited = awaited
        self._counts = counts
        self._forward_event = forward_event

    def tick(self) -> None:
        while self._arrived:
            received = self._arrived.popleft()
            try:
                self._counts.add(f"write_backs_{self._take_in(received)}")
            except StaleAddress as error:
                # This instance was taken for dead meanwhile, and has begun anew.
                logger.debug("KV from %s: %s", received.instance, error)
                self._counts.add("write_backs_stale")
            except Exception:
                logger.exception("KV from %s", received.instance)
                self._counts.add("write_backs_failed")
            finally:
                self._give_back(received)

    def swap_in(self, found: MatchResult, tokens: BlockNumbers, namespace: Namespace) -> bool:
        """Whether the tree has now what DRAM has of the tokens, and had not before."""
        try:
            outcome = self._adopt(tokens[: found.tokens], namespace, found.addresses, found.check)
        except MemPoolError as error:
            logger.warning("KV in DRAM was gone before it was read: %s", error)
            return False
        self._counts.add(f"dram_hits_{outcome}")
        return outcome is Adopted.INSERTED

    def _take_in(self, received: ReceivedBlocks) -> str:
        tokens, page = received.tokens, self._tree.page_size
        if tokens is None or len(tokens) % page:
            raise MemPoolError("KV without its tokens, or of half a block")
        self._awaited.came(tokens, received.namespace)
        if int.from_bytes(received.private) != self._tree.epoch:
            return "flushed"
        namespace = msgspec.json.decode(received.namespace, type=Namespace)
        outcome = self._adopt(tokens, namespace, [received.addresses], lambda: self._require_own(received))
        if outcome in (Adopted.INSERTED, Adopted.PRESENT):
            first = len(tokens) - len(received.addresses) * page
            self._answers.wrote_back(tokens, first, received.namespace)
        return outcome

    def _require_own(self, received: ReceivedBlocks) -> None:
        if received.addresses.owner.incarnation != self._pool.info.incarnation:
            raise StaleAddress(received.addresses.owner, "the blocks are others' now")

    def _adopt(
        self,
        tokens: BlockNumbers,
        namespace: Namespace,
        addresses: Sequence[Addresses],
        check: Callable[[], None],
    ) -> Adopted:
        """Into the tree, what these DRAM blocks hold of the last of the tokens.

        `check`, called after they were read, raises where they may have been others' meanwhile.
        """
        page = self._tree.page_size
        rows = torch.cat([pages_of(part) for part in addresses])

        def write(pages: torch.Tensor, skipped: int) -> None:
            wanted = rows[skipped // page :]
            with self._counts.moving("swap_in", len(wanted) * self._arena.layout.block_bytes):
                copy_between(self._arena, wanted, self._to_hbm, pages, self._staging, self._forward_event())
            check()

        return self._tree.adopt(tokens, namespace, len(tokens) - len(rows) * page, write)

    def _give_back(self, received: ReceivedBlocks) -> None:
        try:
            self._pool.free_mem(received.addresses)
        except MemPoolError as error:
            logger.debug("staging of %s: %s", received.instance, error)
