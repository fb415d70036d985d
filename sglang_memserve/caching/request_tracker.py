"""What happens to a request's KV as SGLang's tree matches it, keeps it and lets go of it."""

from typing import Any

import numpy as np

from mempool.pool import MemPool
from sglang_memserve.caching.answer_worker import AnswerWorker
from sglang_memserve.caching.config import CachingAgentConfig
from sglang_memserve.caching.counters import Counters
from sglang_memserve.caching.fetch_hint import request_key
from sglang_memserve.caching.fetches import Fetches
from sglang_memserve.caching.loader import KVLoader
from sglang_memserve.caching.namespace import Namespace
from sglang_memserve.caching.offload_planner import OffloadPlanner
from sglang_memserve.caching.prefill_origins import PrefillOrigins
from sglang_memserve.caching.prompt_tokens import count_prompt_tokens
from sglang_memserve.request_state import LoadedPrefix, request_state

# The scheduler's thread reads what it has matched at once.
_LEASE_S = 30.0


class RequestTracker:
    """Observes the tree's requests (a `RequestObserver`), on SGLang's scheduler thread."""

    def __init__(
        self,
        config: CachingAgentConfig,
        *,
        page_size: int,
        pool: MemPool,
        loader: KVLoader,
        planner: OffloadPlanner,
        origins: PrefillOrigins,
        fetches: Fetches,
        answers: AnswerWorker,
        counters: Counters,
    ) -> None:
        self._config = config
        self._page_size = page_size
        self._pool = pool
        self._loader = loader
        self._planner = planner
        self._origins = origins
        self._fetches = fetches
        self._answers = answers
        self._counters = counters

    def load_prefix(self, key: Any, req: Any, present: int) -> LoadedPrefix | None:
        """Searches DRAM once for each request. What cannot be loaded then is computed."""
        state = request_state(req)
        # A streaming session's KV is not all in the tree.
        if req.session is not None or state.looked_up:
            return None
        state.looked_up = True
        namespace = Namespace.of(key)
        tokens, name = np.array(key.raw_token_ids(), dtype=np.int32), namespace.name
        if name is None:
            return None
        self._answers.compare(tokens, name)
        if not self._config.publishes or len(tokens) // self._page_size * self._page_size <= present:
            return None
        with self._pool.match(tokens, namespace=name, lease_s=_LEASE_S) as found:
            if found.tokens <= present or not self._loader.swap_in(found, tokens, namespace):
                return None
        return self._fetches.take_loaded(request_key(req), present, found.tokens)

    def on_finish(self, req: Any, up_to: int) -> None:
        self._planner.offload(req, up_to, self._origins.pop(req.bootstrap_room))

    def on_release(self, req: Any, finished: bool) -> None:
        if finished:
            self._count_prompt(req)
        self._origins.pop(req.bootstrap_room)
        self._fetches.forget(request_key(req))
        # It may be scheduled again: others may need until then what would be loaded for it now.
        request_state(req).looked_up = False

    def on_flush(self) -> None:
        """The model's weights may be others from now on."""
        self._pool.clear()
        self._answers.clear()

    def _count_prompt(self, req: Any) -> None:
        state, is_decode = request_state(req), self._config.role == "decode"
        count_prompt_tokens(
            self._counters,
            prompt=len(req.origin_input_ids),
            # What a decode instance's request reports is what prefill had cached.
            cached=state.prefix_tokens if is_decode else req.cached_tokens,
            loaded=state.loaded,
            is_decode=is_decode,
        )
