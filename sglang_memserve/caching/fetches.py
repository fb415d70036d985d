"""Prefixes that are fetched from other instances for requests, before these are scheduled."""

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import NamedTuple

from mempool.errors import DeadlinePassed
from mempool.pool import MemPool
from sglang_memserve.caching.counters import Counters
from sglang_memserve.caching.fetch_hint import FetchHint
from sglang_memserve.caching.prefix_keys import TokenIds
from sglang_memserve.request_state import LoadedPrefix

logger = logging.getLogger(__name__)

# The source that tokens are counted under which came in parts.
SEVERAL = "several"
# Far above what waits at once: requests that went away before they were scheduled.
_MAX_FETCHED = 4096


class _Fetched(NamedTuple):
    """Tokens `[first, stop)` of a prompt, which `source` sent and this instance's DRAM did not have."""

    source: str
    first: int
    stop: int


class _OpenFetch(NamedTuple):
    """`present`: tokens that this instance's DRAM had at the start. Times are of the monotonic clock."""

    source: str
    present: int
    began: float
    deadline: float


class Fetches:
    """The requests that wait for a fetch, by their keys (see `request_key`). From any thread.

    `wake` is called when a request need not wait any longer.
    """

    def __init__(self, pool: MemPool, wake: Callable[[], None], counters: Counters) -> None:
        self._pool = pool
        self._wake = wake
        self._counters = counters
        self._lock = threading.Lock()
        self._open: dict[int | str, _OpenFetch] = {}
        self._fetched: dict[int | str, _Fetched] = {}

    @property
    def open(self) -> int:
        """How many fetches have a request that may wait for them."""
        return len(self._open)

    def start(self, key: int | str, hint: FetchHint, tokens: TokenIds, namespace: str, present: int) -> None:
        """What the source sends is in DRAM when the request stops waiting. DRAM has `present` tokens now."""
        timeout_s, now = hint.deadline_ms / 1000, time.monotonic()
        source = hint.fetched_from(self._pool.local.layout.page_size)
        fetch = _OpenFetch(source if isinstance(source, str) else SEVERAL, present, now, now + timeout_s)
        self.forget(key)
        self._counters.add("fetches_started")
        self._counters.add("holds")
        with self._lock:
            self._open[key] = fetch
        result = self._pool.start.fetch(
            source, tokens, namespace=namespace, timeout_s=timeout_s, from_engine=hint.from_engine
        )
        result.add_done_callback(lambda ended: self._on_ended(key, fetch, ended))

    def waits(self, key: int | str) -> bool:
        """Whether the request should not be scheduled yet."""
        fetch = self._open.get(key)
        return fetch is not None and time.monotonic() < fetch.deadline

    def take_loaded(self, key: int | str, start: int, stop: int) -> LoadedPrefix:
        """Tokens `[start, stop)` were loaded from DRAM for the request: says which were fetched for it."""
        with self._lock:
            fetched = self._fetched.pop(key, None)
        if fetched is None:
            return LoadedPrefix(start, stop - start)
        tokens = max(0, min(stop, fetched.stop) - max(start, fetched.first))
        return LoadedPrefix(start, stop - start - tokens, tokens, fetched.source)

    def forget(self, key: int | str) -> None:
        """The request has gone away, or has let go of its KV."""
        with self._lock:
            self._fetched.pop(key, None)
            fetch = self._open.pop(key, None)
            if fetch is not None:
                self._count_hold(fetch, "gone")

    def _on_ended(self, key: int | str, fetch: _OpenFetch, ended: Future[int]) -> None:
        """On the thread that ended the fetch."""
        error = ended.exception()
        if error is None:
            self._on_completed(key, fetch, ended.result())
        else:
            self._counters.add(f"fetches_failed_{type(error).__name__}")
            logger.debug("a prefix from %s: %s", fetch.source, error)
            self._end_hold(key, fetch, "deadline" if isinstance(error, DeadlinePassed) else "failed")
        self._wake()

    def _on_completed(self, key: int | str, fetch: _OpenFetch, blocks: int) -> None:
        layout = self._pool.local.layout
        # What is here in the end, where there are several sources, and not what these had.
        if fetch.source == SEVERAL and blocks * layout.page_size <= fetch.present:
            blocks = 0
        self._counters.add("fetches_completed" if blocks else "fetches_found_nothing")
        self._counters.add("fetched_blocks", blocks)
        fetched = _Fetched(fetch.source, fetch.present, blocks * layout.page_size)
        new = max(0, fetched.stop - fetched.first)
        if new:
            self._counters.moved("fetch", new // layout.page_size * layout.block_bytes, fetch.began)
        self._end_hold(key, fetch, "completed" if blocks else "found_nothing", fetched if new else None)

    def _end_hold(
        self, key: int | str, fetch: _OpenFetch, outcome: str, fetched: _Fetched | None = None
    ) -> None:
        with self._lock:
            if self._open.get(key) is not fetch:
                return
            if fetched is not None:
                self._fetched[key] = fetched
                if len(self._fetched) > _MAX_FETCHED:
                    self._fetched.pop(next(iter(self._fetched)))
            self._count_hold(fetch, outcome)
            del self._open[key]

    def _count_hold(self, fetch: _OpenFetch, outcome: str) -> None:
        now = time.monotonic()
        self._counters.add(f"holds_{outcome if now < fetch.deadline else 'deadline'}")
        self._counters.add("hold_seconds", min(now, fetch.deadline) - fetch.began)
