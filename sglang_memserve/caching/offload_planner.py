"""Which pages of the tree are offloaded to DRAM, and which answers are written back to prefill."""

from typing import Any

import numpy as np

from mempool.engine import PublishRequest
from mempool.pool import MemPool
from sglang_memserve.caching.config import CachingAgentConfig
from sglang_memserve.caching.counters import Counters
from sglang_memserve.caching.finished_kv import FinishedKV, WriteBackTarget
from sglang_memserve.caching.namespace import Namespace
from sglang_memserve.caching.offloader import KVOffloader
from sglang_memserve.caching.prefill_origins import PrefillOrigin
from sglang_memserve.caching.prefix_keys import TokenIds
from sglang_memserve.caching.tree import MemServeRadixCache
from sglang_memserve.forward_stream import ForwardStream


class OffloadPlanner:
    """For SGLang's scheduler thread. It holds pages in the tree, and hands them to the offloader."""

    def __init__(
        self,
        config: CachingAgentConfig,
        *,
        tree: MemServeRadixCache,
        pool: MemPool,
        offloader: KVOffloader,
        stream: ForwardStream,
        counters: Counters,
    ) -> None:
        self._config = config
        self._tree = tree
        self._pool = pool
        self._offloader = offloader
        self._stream = stream
        self._counters = counters

    def offload(self, req: Any, up_to: int, origin: PrefillOrigin | None) -> None:
        """The request has ended, and the tree has its KV up to token `up_to`. Offloads what DRAM lacks.

        `origin`: who prefilled the prompt, and is sent the answer; None for nobody.
        """
        name = Namespace.of(req).name
        if name is None or not _is_reusable(req):
            return
        page_size = self._tree.page_size
        tokens = np.array(req.full_untruncated_fill_ids[: up_to // page_size * page_size], dtype=np.int32)
        target = self._target(origin, len(req.origin_input_ids) // page_size, len(tokens) // page_size)
        first = self._first_missing(tokens, name, target)
        if first * page_size < len(tokens) or target is not None:
            held = self._tree.hold(req.last_node, first * page_size, len(tokens))
            written = self._stream.record()
            self._offloader.put(FinishedKV(tokens, name, first, held, written, target))

    def publish(self, request: PublishRequest) -> None:
        """Offloads what only HBM has of the tokens that another instance asks for."""
        namespace = Namespace.from_name(request.namespace)
        found = self._tree.hold_from(request.tokens, namespace, request.published)
        if found is None:
            request.done()
            return
        present, held = found
        self._counters.add("hbm_publish_requests")
        self._offloader.put(
            FinishedKV(
                tokens=request.tokens[:present],
                namespace=request.namespace,
                first=request.published // self._tree.page_size,
                held=held,
                written=self._stream.record(),
                on_done=request.done,
            )
        )

    def _target(self, origin: PrefillOrigin | None, first: int, stop: int) -> WriteBackTarget | None:
        """Of an answer in blocks `[first, stop)`."""
        if origin is None or not self._config.writes_back or first >= stop:
            return None
        return WriteBackTarget(origin.instance.instance, first, origin.cache_epoch.to_bytes(8))

    def _first_missing(self, tokens: TokenIds, name: str, target: WriteBackTarget | None) -> int:
        """The first block that has to be copied to DRAM."""
        if self._config.publishes:
            return self._pool.match(tokens, namespace=name, lease_s=None).blocks
        return len(tokens) // self._tree.page_size if target is None else target.first


def _is_reusable(req: Any) -> bool:
    """Whether the request was not aborted, and its KV depends on nothing but its tokens and namespace."""
    from sglang.srt.managers.schedule_batch import FINISH_ABORT

    aborted = isinstance(req.finished_reason, FINISH_ABORT)
    return not aborted and req.multimodal_inputs is None and not req.skip_radix_cache_insert
