"""One scheduler process's part in the MemPool, between SGLang's tree and the other instances."""

import logging
import threading
from collections import Counter, deque
from typing import Any

import msgspec
import numpy as np
import torch

from mempool.address import Medium
from mempool.arena import DramArena
from mempool.errors import MemPoolError
from mempool.membership.messages import InstanceInfo
from mempool.paged import PagedBuffers
from mempool.pool import MemPool
from mempool.remote.serving import Received
from mempool.sockets import endpoint_of
from mempool.tiers.tier import dram_arena, pages_of
from sglang_memserve.caching.tree import Adopted, MemServeRadixCache, Namespace
from sglang_memserve.caching.write_back import Answer, WriteBack

logger = logging.getLogger(__name__)

# The longest that the MemPool carries.
_MAX_NAMESPACE = 256
# Far above what one instance decodes at once: rooms whose requests ended without a word.
_MAX_ROOMS = 65_536


class CachingAgent:
    """`finished`, `released` and `tick` belong to the scheduler's thread, `introduce` to any.

    `buffers`: SGLang's KV pool, a view of this agent's own. `forward_stream`: the scheduler's, on CUDA.
    """

    def __init__(
        self,
        name: str,
        role: str,
        host: str,
        tree: MemServeRadixCache,
        buffers: tuple[PagedBuffers, PagedBuffers],
        dram: str,
        forward_stream: Any,
    ) -> None:
        self._tree = tree
        self._to_hbm, to_dram = buffers
        self._arena: DramArena = dram_arena(to_dram.layout, dram)
        self._arrived: deque[Received] = deque()
        self._rooms: dict[int, InstanceInfo] = {}
        self._lock = threading.Lock()
        self._forward_stream = forward_stream if to_dram.device.type == "cuda" else None
        self._counts: Counter[str] = Counter()
        self._pool = MemPool(
            name,
            {Medium.DRAM: self._arena},
            role=role,
            control=endpoint_of("tcp", host, 0),
            data=endpoint_of("stream", host, 0),
            on_hbm=self._arrived.append,
        )
        self._write_back = WriteBack(self._pool, self._arena, to_dram, lambda epoch: epoch == tree.epoch)
        tree.agent = self

    @property
    def info(self) -> InstanceInfo:
        return self._pool.info

    def counters(self) -> dict[str, int]:
        sent = self._pool.counters()["bytes_sent"]
        return {**self._counts, **self._write_back.counters(), "kv_bytes_written_back": sent}

    def introduce(self, room: int, info: InstanceInfo) -> None:
        """Names the prefill instance that serves a room. Raises MemPoolError where its KV does not fit."""
        known = self._pool.others.get(info.instance)
        if known is None or known.incarnation != info.incarnation:
            self._pool.introduce(info)
        with self._lock:
            self._rooms[room] = info
            if len(self._rooms) > _MAX_ROOMS:
                self._rooms.pop(next(iter(self._rooms)))

    def finished(self, req: Any, up_to: int) -> None:
        """The tree has the request's KV up to `up_to` now."""
        with self._lock:
            info = self._rooms.pop(req.bootstrap_room, None)
        if info is None or not _is_an_answer(req):
            return
        page = self._tree.page_size
        first, stop = len(req.origin_input_ids) // page * page, up_to // page * page
        namespace = msgspec.json.encode(Namespace(req.extra_key, req.cache_salt)).decode()
        if first >= stop or len(namespace) > _MAX_NAMESPACE:
            return
        tokens = np.array(req.full_untruncated_fill_ids[:stop], dtype=np.int32)
        held = self._tree.hold(req.last_node, first, stop)
        self._write_back.put(Answer(info.instance, tokens, namespace, held, self._forward_event()))

    def released(self, req: Any) -> None:
        with self._lock:
            self._rooms.pop(req.bootstrap_room, None)

    def tick(self) -> None:
        """Before the scheduler takes in requests: what has come is in the tree when they are matched."""
        for held in self._write_back.done():
            self._tree.release(held)
        while self._arrived:
            received = self._arrived.popleft()
            try:
                self._counts[f"write_backs_{self._adopt(received)}"] += 1
            except Exception:
                logger.exception("KV from %s", received.instance)
                self._counts["write_backs_failed"] += 1
            finally:
                self._give_back(received)

    def close(self) -> None:
        self._write_back.close()
        self._pool.close()

    def _adopt(self, received: Received) -> Adopted:
        tokens, page = received.tokens, self._tree.page_size
        if tokens is None or len(tokens) % page:
            raise MemPoolError("KV without its tokens, or of half a block")
        namespace = msgspec.json.decode(received.namespace, type=Namespace)
        rows = pages_of(received.addresses)
        first = len(tokens) - len(rows) * page

        def write(pages: torch.Tensor, skipped: int) -> None:
            wanted = rows[skipped // page :]
            self._to_hbm.scatter(pages, self._arena.rows[wanted], self._forward_event())

        return self._tree.adopt(tokens, namespace, first, write)

    def _give_back(self, received: Received) -> None:
        try:
            self._pool.free_mem(received.addresses)
        except MemPoolError as error:
            logger.debug("staging of %s: %s", received.instance, error)

    def _forward_event(self) -> torch.cuda.Event | None:
        """What the engine has launched by now may still write an answer, or to pages given away since."""
        return None if self._forward_stream is None else self._forward_stream.record_event()


def _is_an_answer(req: Any) -> bool:
    """Whether it ended by itself, and its tokens say all of what its KV hangs on."""
    from sglang.srt.managers.schedule_batch import FINISH_ABORT

    aborted = isinstance(req.finished_reason, FINISH_ABORT)
    return not aborted and req.multimodal_inputs is None and not req.skip_radix_cache_insert
