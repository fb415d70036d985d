"""One scheduler process's part in the MemPool, between SGLang's tree and the other instances."""

import logging
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, NamedTuple

import msgspec
import numpy as np
import torch

from mempool.address import Medium, Owner
from mempool.config import MemPoolConfig
from mempool.engine import EngineHbm, PublishRequest, ReceivedBlocks
from mempool.feed.feed import Feed
from mempool.feed.server import FeedServer
from mempool.index.keys import Tokens
from mempool.membership.messages import InstanceInfo
from mempool.paged import PagedBuffers
from mempool.pool import MemPool
from mempool.sockets import endpoint_of
from mempool.tiers.tier import dram_arena
from mempool.transports.registry import Transports
from sglang_memserve.caching import sources
from sglang_memserve.caching.counters import Counters
from sglang_memserve.caching.fetches import Fetches, FetchHint, hint_of, key_of
from sglang_memserve.caching.hbm import HbmIndex
from sglang_memserve.caching.incoming import Incoming
from sglang_memserve.caching.outgoing import FinishedKV, Outgoing, WriteBackTarget
from sglang_memserve.caching.pending_write_backs import PendingWriteBacks
from sglang_memserve.caching.reencoded import Reencoded
from sglang_memserve.caching.tree import MemServeRadixCache, Namespace, name_of
from sglang_memserve.request_state import Brought

logger = logging.getLogger(__name__)

# What is under way needs some, also where DRAM is no tier.
STAGING = "64MiB"
# Far above what one instance decodes at once: rooms whose requests ended without a word.
_MAX_ROOMS = 65_536
# Of others, for what only HBM has.
_MAX_WANTED = 256
# What is read on the scheduler's thread is not leased for longer.
_LEASE_SECONDS = 30.0


class Prefilled(NamedTuple):
    """Who prefilled a room's request, and the epoch of the cache that it has it in."""

    instance: InstanceInfo
    epoch: Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]


class CachingAgent:
    """`introduce` may be called from any thread, all else belongs to the scheduler's.

    `buffers`: two views of SGLang's KV pool, this agent's own. `dram`: a size, "0" where DRAM is to be no
    tier. `writes_back`: whether answers are sent back. `forward_stream`: the scheduler's, on CUDA. `wake`
    ends the scheduler's wait, from any thread. `registries`, `namespace`: see `MemPool`. `decode`: the
    tokenizer's, token ids to text, without which answers that came back under other ids are not told.
    `max_bandwidth`: bytes a second that are sent to each other instance at most; 0: no bound.
    """

    def __init__(
        self,
        name: str,
        role: str,
        host: str,
        tree: MemServeRadixCache,
        buffers: tuple[PagedBuffers, PagedBuffers],
        dram: str,
        writes_back: bool,
        forward_stream: Any,
        wake: Callable[[], None] = lambda: None,
        registries: Sequence[str] = (),
        namespace: Mapping[str, str] | None = None,
        decode: Callable[[list[int]], str] | None = None,
        max_bandwidth: int = 0,
    ) -> None:
        self._tree = tree
        to_hbm, to_dram = buffers
        self._publishes = dram != "0"
        self._writes_back = writes_back
        arena = dram_arena(to_dram.layout, dram if self._publishes else STAGING)
        self._received: deque[ReceivedBlocks] = deque()
        self._wanted: deque[PublishRequest] = deque()
        self._wake = wake
        self._rooms: dict[int, Prefilled] = {}
        self._lock = threading.Lock()
        self._forward_stream = forward_stream if to_dram.device.type == "cuda" else None
        self._counts = Counters()
        self._pool = MemPool(
            MemPoolConfig(
                instance=name,
                role=role,
                namespace=namespace or {},
                registries=registries,
                control_url=endpoint_of("tcp", host, 0),
                data_url=endpoint_of("stream", host, 0),
            ),
            stores={Medium.DRAM: arena},
            engine=EngineHbm(
                on_received=self._receive,
                on_publish_request=self._want if self._publishes else None,
            ),
            transports=Transports(max_bandwidth),
        )
        self._outgoing = Outgoing(
            self._pool, arena, to_dram, self._publishes, tree.unless_flushed, self._counts
        )
        self._fetches = Fetches(self._pool, wake, self._counts)
        self._role = role
        self._answers = answers = Reencoded(tree.page_size, self._counts, decode)
        self._awaited = awaited = PendingWriteBacks(tree.page_size)
        self._incoming = Incoming(
            tree,
            self._pool,
            arena,
            to_hbm,
            self._received,
            answers,
            awaited,
            self._counts,
            self._forward_event,
        )
        hbm = Owner(self.name, self._pool.info.incarnation, Medium.HBM)
        tree.hbm = self._hbm = HbmIndex(hbm, tree.page_size, self._counts)
        self._server = self._serve_feeds(host)
        tree.agent = self

    @property
    def name(self) -> str:
        return self._pool.info.instance

    @property
    def knows(self) -> list[str]:
        """The names of the other instances that KV can come from, and go to."""
        return sorted(self._pool.others)

    @property
    def prefilled(self) -> Prefilled:
        """What a decode instance is told of this one."""
        return Prefilled(self._pool.info, self._tree.epoch)

    @property
    def advertised(self) -> dict[str, Any]:
        """Who this is to others, and where they hear what it has."""
        feed = {"endpoint": self._server.endpoint, "incarnation": self._pool.info.incarnation}
        return {"instance": self.name, "feed": feed}

    def counters(self) -> dict[str, Any]:
        """Numbers by name, and dicts of numbers by source."""
        dram, sent = self._pool.counts(Medium.DRAM), self._pool.counters()["bytes_sent"]
        return self._counts.read() | {
            "open_fetches": self._fetches.open,
            "dram_blocks": dram.historical,
            "dram_blocks_in_use": dram.active,
            "kv_bytes_sent_from_dram": sent,
        }

    def introduce(self, room: int, prefilled: Prefilled) -> None:
        """Says who prefilled a room's request. Raises MemPoolError where its KV does not fit."""
        info = prefilled.instance
        known = self._pool.others.get(info.instance)
        if known is None or known.incarnation != info.incarnation:
            self._pool.introduce(info)
        with self._lock:
            self._rooms[room] = prefilled
            if len(self._rooms) > _MAX_ROOMS:
                self._rooms.pop(next(iter(self._rooms)))

    def finished(self, req: Any, up_to: int) -> None:
        """The tree has the request's KV up to `up_to` now."""
        with self._lock:
            prefilled = self._rooms.pop(req.bootstrap_room, None)
        name = name_of(Namespace(req.extra_key, req.cache_salt))
        if name is None or not _is_whole(req):
            return
        page = self._tree.page_size
        tokens = np.array(req.full_untruncated_fill_ids[: up_to // page * page], dtype=np.int32)
        back = self._way_back(prefilled, len(req.origin_input_ids) // page, len(tokens) // page)
        first = self._first_missing(tokens, name, back)
        if first * page < len(tokens) or back is not None:
            held = self._tree.hold(req.last_node, first * page, len(tokens))
            self._outgoing.put(FinishedKV(tokens, name, first, held, self._forward_event(), back))

    def released(self, req: Any) -> None:
        with self._lock:
            self._rooms.pop(req.bootstrap_room, None)
        self._fetches.forget(key_of(req))
        # It may be back: what is brought for it now, others may need until then.
        req.memserve_looked_up = False

    def count_prompt(self, req: Any) -> None:
        """Of a request that has ended, where its prompt's KV came from."""
        sources.count(self._counts, req, self._role == "decode")

    def arrived(self, req: Any) -> None:
        """A request that is not scheduled yet: what its hint names is fetched, if it is not here."""
        hint, namespace = self._hint_of(req), Namespace(req.extra_key, req.cache_salt)
        # One that was rejected has another prompt, and no sender.
        answer_comes = self._writes_back and self._role == "prefill" and req.disagg_kv_sender is not None
        name = name_of(namespace)
        if not (hint or answer_comes) or name is None or req.multimodal_inputs is not None:
            return
        tokens = np.array(req.origin_input_ids, dtype=np.int32)
        if answer_comes:
            req.memserve_goes_on_from = self._awaited.arrived(tokens, name)
        if hint is None:
            return
        page = self._tree.page_size
        tokens = tokens[: min(len(tokens) - 1, hint.tokens or len(tokens)) // page * page]
        here = self._pool.match(tokens, namespace=name, lease_s=None)
        if max(here.tokens, self._tree.known(tokens, namespace)) < len(tokens):
            self._fetches.begin(key_of(req), hint, tokens, name, here.tokens)

    def waits(self, room: int) -> bool:
        """Whether the room's request waits for what it is to find here."""
        return self._fetches.waits(room)

    def awaits(self, req: Any) -> bool:
        """Whether the answer that the request's prompt goes on from is on its way here."""
        before = getattr(req, "memserve_goes_on_from", None)
        return before is not None and self._awaited.waits_for(before)

    def held(self, reqs: list[Any]) -> list[Any]:
        """Those of the requests that wait."""
        return [req for req in reqs if self._fetches.waits(key_of(req))] if self._fetches.open else []

    def flushed(self) -> None:
        """Nothing that was kept counts any more: weights may be others from now on."""
        self._pool.clear()
        self._answers.clear()

    def bring_in(self, key: Any, req: Any, present: int) -> Brought | None:
        """What the tree has now that it had not: DRAM had more of the key than the `present` tokens.

        Each request is looked up once: what could not be brought in then is computed.
        """
        # A streaming session's KV is not all in the tree.
        if req.session is not None or getattr(req, "memserve_looked_up", False):
            return None
        req.memserve_looked_up = True
        page, namespace = self._tree.page_size, Namespace(key.extra_key, key.cache_salt)
        tokens, name = np.array(key.raw_token_ids(), dtype=np.int32), name_of(namespace)
        if name is None:
            return None
        self._answers.arrived(tokens, name)
        if not self._publishes or len(tokens) // page * page <= present:
            return None
        with self._pool.match(tokens, namespace=name, lease_s=_LEASE_SECONDS) as found:
            if found.tokens <= present:
                return None
            inserted = self._incoming.swap_in(found, tokens, namespace)
        return self._fetches.brought(key_of(req), present, found.tokens) if inserted else None

    def tick(self) -> None:
        """Before the scheduler takes in requests: what has come is in the tree when they are matched."""
        for held in self._outgoing.done():
            self._tree.release(held)
        self._incoming.tick()
        self._hbm.flush()
        while self._wanted:
            wanted = self._wanted.popleft()
            try:
                self._publish_more(wanted)
            except Exception:
                logger.exception("KV that another instance wants")
                wanted.done()

    def close(self) -> None:
        self._server.close()
        self._outgoing.close()
        self._pool.close()

    def _serve_feeds(self, host: str) -> FeedServer:
        """Of what is kept: DRAM that only stages what is under way is none of it."""
        feeds: dict[Medium, Feed] = {Medium.HBM: self._hbm.feed}
        if self._publishes:
            feeds[Medium.DRAM] = self._pool.local.feed
        return FeedServer(endpoint_of("tcp", host, 0), feeds)

    def _hint_of(self, req: Any) -> FetchHint | None:
        """If this instance is to fetch what it names, and can."""
        try:
            hint = hint_of(req)
        except msgspec.ValidationError as error:
            logger.debug("a hint of %s: %s", req.rid, error)
            self._counts.add("hints_malformed")
            return None
        if hint is None or hint.role not in (None, self._role) or hint.source == self.name:
            return None
        return hint if self._publishes else None

    def _receive(self, received: ReceivedBlocks) -> None:
        """From any thread."""
        self._received.append(received)
        self._wake()

    def _want(self, wanted: PublishRequest) -> None:
        """From any thread."""
        if len(self._wanted) < _MAX_WANTED:
            self._wanted.append(wanted)
            self._wake()
        else:
            wanted.done()

    def _publish_more(self, wanted: PublishRequest) -> None:
        """In DRAM, what only HBM has of it."""
        page, namespace = self._tree.page_size, msgspec.json.decode(wanted.namespace, type=Namespace)
        more = self._tree.hold_more(wanted.tokens, namespace, wanted.published)
        if more is None:
            wanted.done()
            return
        tokens, first = wanted.tokens[: more[0]], wanted.published // page
        self._counts.add("wanted_from_hbm")
        event = self._forward_event()
        self._outgoing.put(FinishedKV(tokens, wanted.namespace, first, more[1], event, then=wanted.done))

    def _way_back(self, prefilled: Prefilled | None, first: int, stop: int) -> WriteBackTarget | None:
        if prefilled is None or not self._writes_back or first >= stop:
            return None
        return WriteBackTarget(prefilled.instance.instance, first, prefilled.epoch.to_bytes(8))

    def _first_missing(self, tokens: Tokens, name: str, back: WriteBackTarget | None) -> int:
        """The first block that DRAM has to be given."""
        if self._publishes:
            return self._pool.match(tokens, namespace=name, lease_s=None).blocks
        return len(tokens) // self._tree.page_size if back is None else back.first

    def _forward_event(self) -> torch.cuda.Event | None:
        """What the engine has launched by now may still write an answer, or to pages given away since."""
        return None if self._forward_stream is None else self._forward_stream.record_event()


def _is_whole(req: Any) -> bool:
    """Whether it ended by itself, and its tokens say all of what its KV hangs on."""
    from sglang.srt.managers.schedule_batch import FINISH_ABORT

    aborted = isinstance(req.finished_reason, FINISH_ABORT)
    return not aborted and req.multimodal_inputs is None and not req.skip_radix_cache_insert
