"""KV that requests wait for before they are scheduled: a fetched prefix, or an answer on its way back."""

import logging
from typing import Any

import msgspec
import numpy as np

from mempool.pool import MemPool
from sglang_memserve.caching.config import CachingAgentConfig
from sglang_memserve.caching.counters import Counters
from sglang_memserve.caching.fetch_hint import FetchHint, fetch_hint_of, request_key
from sglang_memserve.caching.fetches import Fetches
from sglang_memserve.caching.namespace import Namespace
from sglang_memserve.caching.pending_write_backs import PendingWriteBacks
from sglang_memserve.caching.tree import MemServeRadixCache
from sglang_memserve.request_state import request_state

logger = logging.getLogger(__name__)


class Prefetcher:
    """For SGLang's scheduler thread."""

    def __init__(
        self,
        config: CachingAgentConfig,
        *,
        tree: MemServeRadixCache,
        pool: MemPool,
        fetches: Fetches,
        pending: PendingWriteBacks,
        counters: Counters,
    ) -> None:
        self._config = config
        self._tree = tree
        self._pool = pool
        self._fetches = fetches
        self._pending = pending
        self._counters = counters

    def on_arrival(self, req: Any) -> None:
        """The request is not scheduled yet. Starts to fetch what its hint names and this instance lacks."""
        hint, namespace = self._hint_of(req), Namespace.of(req)
        name, expects_answer = namespace.name, self._expects_answer(req)
        if not (hint or expects_answer) or name is None or req.multimodal_inputs is not None:
            return
        tokens = np.array(req.origin_input_ids, dtype=np.int32)
        if expects_answer:
            request_state(req).previous_turn = self._pending.expect(tokens, name)
        if hint is None:
            return
        page_size = self._tree.page_size
        tokens = tokens[: min(len(tokens) - 1, hint.longest or len(tokens)) // page_size * page_size]
        in_dram = self._pool.match(tokens, namespace=name, lease_s=None).tokens
        if max(in_dram, self._tree.prefix_length(tokens, namespace)) < len(tokens):
            self._fetches.start(request_key(req), hint, tokens, name, in_dram)

    def waits_for_write_back(self, req: Any) -> bool:
        """Whether the answer that the request's prompt goes on from has yet to come back."""
        previous = request_state(req).previous_turn
        return previous is not None and self._pending.is_pending(previous)

    def waiting_for_fetch(self, reqs: list[Any]) -> list[Any]:
        """Those of the requests that wait for a fetch."""
        return [req for req in reqs if self._fetches.waits(request_key(req))] if self._fetches.open else []

    def _expects_answer(self, req: Any) -> bool:
        """Whether the answer of this request will be written back here."""
        is_prefill = self._config.writes_back and self._config.role == "prefill"
        # A request that was rejected has no sender, and another prompt.
        return is_prefill and req.disagg_kv_sender is not None

    def _hint_of(self, req: Any) -> FetchHint | None:
        """The request's hint, if it is for this instance, which can fetch what it names."""
        try:
            hint = fetch_hint_of(req)
        except msgspec.ValidationError as error:
            logger.debug("a hint of %s: %s", req.rid, error)
            self._counters.add("hints_malformed")
            return None
        if hint is None or hint.role not in (None, self._config.role) or not self._config.publishes:
            return None
        return hint.others(self._config.name)
