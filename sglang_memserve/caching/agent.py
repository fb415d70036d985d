"""One scheduler process's part in the MemPool, between SGLang's tree and the other instances."""

import logging
from collections.abc import Callable
from typing import Any

from mempool.address import Medium, Owner
from mempool.engine import PublishRequest, ReceivedBlocks
from mempool.paged import PagedBuffers
from mempool.tiers.tier import dram_arena
from sglang_memserve.caching.agent_pool import serve_feeds, start_pool
from sglang_memserve.caching.answer_worker import AnswerWorker
from sglang_memserve.caching.config import CachingAgentConfig
from sglang_memserve.caching.counters import Counters
from sglang_memserve.caching.fetches import Fetches
from sglang_memserve.caching.hbm_index import HbmIndex
from sglang_memserve.caching.inbox import Inbox
from sglang_memserve.caching.loader import KVLoader
from sglang_memserve.caching.offload_planner import OffloadPlanner
from sglang_memserve.caching.offloader import KVOffloader
from sglang_memserve.caching.pending_write_backs import PendingWriteBacks
from sglang_memserve.caching.prefetcher import Prefetcher
from sglang_memserve.caching.prefill_origins import PrefillOrigin, PrefillOrigins
from sglang_memserve.caching.request_tracker import RequestTracker
from sglang_memserve.caching.tree import MemServeRadixCache
from sglang_memserve.caching.write_back import WriteBackSender
from sglang_memserve.caching.write_back_receiver import WriteBackReceiver
from sglang_memserve.caching.written_back_answers import WrittenBackAnswers
from sglang_memserve.forward_stream import ForwardStream

logger = logging.getLogger(__name__)


class CachingAgent:
    """Puts the parts together, and is what SGLang's scheduler calls. All but `introduce` is for its thread.

    `buffers`: two views of SGLang's KV pool, for loads and for the offloader's thread. `forward_stream`: as
    ForwardStream has it. `wake` ends the scheduler's wait, from any thread. `decode`: the tokenizer's, token
    ids to text; without it, answers that come back under other ids are not counted. `requests`: what the tree
    calls.
    """

    def __init__(
        self,
        config: CachingAgentConfig,
        *,
        tree: MemServeRadixCache,
        buffers: tuple[PagedBuffers, PagedBuffers],
        forward_stream: Any = None,
        wake: Callable[[], None] = lambda: None,
        decode: Callable[[list[int]], str] | None = None,
    ) -> None:
        load_buffers, offload_buffers = buffers
        self._config = config
        self._tree = tree
        self._counters = counters = Counters()
        self._publish_requests = Inbox[PublishRequest](wake)
        write_backs = Inbox[ReceivedBlocks](wake)
        arena = dram_arena(offload_buffers.layout, config.arena_size, shared=config.uses_shm)
        stream = ForwardStream(offload_buffers.device, forward_stream)
        self._pool = pool = start_pool(
            config, arena, write_backs=write_backs, publish_requests=self._publish_requests
        )
        self._origins = PrefillOrigins()
        self._fetches = Fetches(pool, wake, counters)
        self._answers = AnswerWorker(WrittenBackAnswers(tree.page_size, counters, decode), counters)
        owner = Owner(config.name, pool.info.incarnation, Medium.HBM)
        self._hbm_index = HbmIndex(owner, tree.page_size, counters, load_buffers.device)
        self._feeds = serve_feeds(config, self._hbm_index.feed, pool.local.feed)
        self._offloader = KVOffloader(
            pool,
            arena,
            offload_buffers,
            publishes=config.publishes,
            unless_flushed=tree.unless_flushed,
            write_backs=WriteBackSender(pool, config.publishes, counters),
            counters=counters,
        )
        self._planner = OffloadPlanner(
            config, tree=tree, pool=pool, offloader=self._offloader, stream=stream, counters=counters
        )
        pending = PendingWriteBacks(tree.page_size)
        self._prefetcher = Prefetcher(
            config, tree=tree, pool=pool, fetches=self._fetches, pending=pending, counters=counters
        )
        self._loader = loader = KVLoader(tree, pool.local, arena, load_buffers, stream, counters)
        self._receiver = WriteBackReceiver(
            write_backs,
            tree=tree,
            pool=pool,
            loader=loader,
            pending=pending,
            answers=self._answers,
            counters=counters,
        )
        self.requests = RequestTracker(
            config,
            page_size=tree.page_size,
            pool=pool,
            loader=loader,
            planner=self._planner,
            origins=self._origins,
            fetches=self._fetches,
            answers=self._answers,
            counters=counters,
        )
        tree.observe(self.requests, self._hbm_index)

    @property
    def name(self) -> str:
        return self._config.name

    @property
    def peers(self) -> list[str]:
        """The names of the other instances that KV can come from, and go to."""
        return sorted(self._pool.others)

    @property
    def prefill_origin(self) -> PrefillOrigin:
        """What prefill sends with a request's KV, so that the answer can be sent back to it."""
        return PrefillOrigin(self._pool.info, self._tree.cache_epoch)

    @property
    def advertised(self) -> dict[str, Any]:
        """For `/server_info`: the instance's name in the MemPool, and where its feeds are."""
        feed = {"endpoint": self._feeds.endpoint, "incarnation": self._pool.info.incarnation}
        return {"instance": self.name, "feed": feed}

    def counters(self) -> dict[str, Any]:
        """Numbers by name, and dicts of numbers by source."""
        dram, pool = self._pool.counts(Medium.DRAM), self._pool.counters()
        return self._counters.read() | {
            "open_fetches": self._fetches.open,
            "dram_blocks": dram.historical,
            "dram_blocks_in_use": dram.active,
            "kv_bytes_sent_from_dram": pool["bytes_sent"],
            "fabric_fallbacks_from_dram": pool["fabric_fallbacks"],
            "refused_connections": pool["refused_connections"] + self._feeds.refused,
        }

    def introduce(self, room: int, origin: PrefillOrigin) -> None:
        """`origin` prefilled the room's request. Raises MemPoolError where its KV does not fit."""
        info = origin.instance
        known = self._pool.others.get(info.instance)
        if known is None or known.incarnation != info.incarnation:
            self._pool.introduce(info)
        self._origins.add(room, origin)

    def on_arrival(self, req: Any) -> None:
        """A request that is not scheduled yet: see `Prefetcher`."""
        self._prefetcher.on_arrival(req)

    def waits_for_fetch(self, room: int) -> bool:
        """Whether the room's request waits for a fetch."""
        return self._fetches.waits(room)

    def waits_for_write_back(self, req: Any) -> bool:
        """Whether the answer that the request's prompt goes on from has yet to come back."""
        return self._prefetcher.waits_for_write_back(req)

    def waiting_for_fetch(self, reqs: list[Any]) -> list[Any]:
        """Those of the requests that wait for a fetch."""
        return self._prefetcher.waiting_for_fetch(reqs)

    def tick(self) -> None:
        """Before the scheduler takes in requests, so that they find in the tree what has come."""
        for held in self._offloader.drain_done():
            self._tree.release(held)
        self._loader.tick()
        self._receiver.tick()
        self._hbm_index.flush()
        while (request := self._publish_requests.get()) is not None:
            try:
                self._planner.publish(request)
            except Exception:
                logger.exception("KV that another instance asks for")
                request.done()

    def close(self) -> None:
        self._feeds.close()
        self._offloader.close()
        self._loader.close()
        self._answers.close()
        self._pool.close()
