"""Prefixes that other instances have, fetched because a request's hint says so, before it is scheduled."""

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Annotated, Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from mempool.errors import DeadlinePassed
from mempool.pool import MemPool
from sglang_memserve.caching.counters import Counters
from sglang_memserve.request_state import Brought

logger = logging.getLogger(__name__)

ACTION = "memserve.fetch"
# Far above what waits at once: requests that went away before they were scheduled.
_MAX_FETCHED = 4096


class FetchHint(msgspec.Struct, frozen=True):
    """Instance `source` has KV of this prompt; worth waiting for until the deadline. `role`: of the instance
    that is to fetch, either where none is named. `tokens`: how many the source is known to have, in HBM or
    DRAM; where that is not said, it sends what DRAM has, without asking its scheduler.
    """

    source: str = msgspec.field(name="from")
    deadline_ms: Annotated[float, msgspec.Meta(gt=0, le=60_000)] = 1000.0
    role: str | None = None
    tokens: Annotated[int, msgspec.Meta(gt=0)] | None = None


def hint_of(req: Any) -> FetchHint | None:
    """From `kv_hints`, an action of the type "memserve.fetch", or from `custom_params`, a key of that name.

    Raises msgspec.ValidationError for one that makes no sense.
    """
    envelope, custom = req.kv_hints, req.sampling_params.custom_params
    for action in envelope.actions if envelope is not None else ():
        if action.action_type == ACTION:
            return msgspec.convert(action.payload, FetchHint)
    if isinstance(custom, dict) and ACTION in custom:
        return msgspec.convert(custom[ACTION], FetchHint)
    return None


def key_of(req: Any) -> int | str:
    """What a request is known by: its room where it has one, else its own name."""
    key: int | str = req.bootstrap_room or req.rid
    return key


class _Fetched(NamedTuple):
    """Tokens `[first, stop)` of a prompt, which `source` had and this instance's DRAM had not."""

    source: str
    first: int
    stop: int


class _Open(NamedTuple):
    source: str
    here: int
    begun: float
    until: float


class Fetches:
    """Whose requests wait. `wake` is called when one need not wait any longer."""

    def __init__(self, pool: MemPool, wake: Callable[[], None], counts: Counters) -> None:
        self._pool = pool
        self._wake = wake
        self._counts = counts
        self._lock = threading.Lock()
        self._open: dict[int | str, _Open] = {}
        self._fetched: dict[int | str, _Fetched] = {}

    @property
    def open(self) -> int:
        """Fetches that a request is there for."""
        return len(self._open)

    def begin(
        self, key: int | str, hint: FetchHint, tokens: npt.NDArray[np.int32], namespace: str, here: int
    ) -> None:
        """What comes is in DRAM, which has `here` tokens now, when its request waits no longer."""
        seconds, now = hint.deadline_ms / 1000, time.monotonic()
        begun = _Open(hint.source, here, now, now + seconds)
        self.forget(key)
        self._counts.add("fetches_asked")
        self._counts.add("holds")
        with self._lock:
            self._open[key] = begun
        coming = self._pool.start.fetch(
            hint.source, tokens, namespace=namespace, timeout_s=seconds, from_engine=hint.tokens is not None
        )
        coming.add_done_callback(lambda came: self._ended(key, begun, came))

    def waits(self, key: int | str) -> bool:
        """Whether the request is better scheduled later."""
        fetch = self._open.get(key)
        return fetch is not None and time.monotonic() < fetch.until

    def brought(self, key: int | str, start: int, stop: int) -> Brought:
        """Of tokens `[start, stop)` that came from DRAM for it, which were fetched for it."""
        with self._lock:
            fetched = self._fetched.pop(key, None)
        if fetched is None:
            return Brought(start, stop - start)
        tokens = max(0, min(stop, fetched.stop) - max(start, fetched.first))
        return Brought(start, stop - start - tokens, tokens, fetched.source)

    def forget(self, key: int | str) -> None:
        """The request is gone, or needs it no more."""
        with self._lock:
            self._fetched.pop(key, None)
            fetch = self._open.pop(key, None)
            if fetch is not None:
                self._count_hold(fetch, "gone")

    def _ended(self, key: int | str, fetch: _Open, came: Future[int]) -> None:
        error = came.exception()
        if error is None:
            self._came(key, fetch, came.result())
        else:
            self._counts.add(f"fetches_failed_{type(error).__name__}")
            logger.debug("a prefix from %s: %s", fetch.source, error)
            self._end_hold(key, fetch, "deadline" if isinstance(error, DeadlinePassed) else "failed")
        self._wake()

    def _came(self, key: int | str, fetch: _Open, blocks: int) -> None:
        self._counts.add("fetches_came" if blocks else "fetches_found_nothing")
        self._counts.add("fetched_blocks", blocks)
        layout = self._pool.local.layout
        fetched = _Fetched(fetch.source, fetch.here, blocks * layout.page_size)
        new = max(0, fetched.stop - fetched.first)
        if new:
            self._counts.moved("fetch", new // layout.page_size * layout.block_bytes, fetch.begun)
        self._end_hold(key, fetch, "came" if blocks else "found_nothing", fetched if new else None)

    def _end_hold(self, key: int | str, fetch: _Open, outcome: str, fetched: _Fetched | None = None) -> None:
        with self._lock:
            if self._open.get(key) is not fetch:
                return
            if fetched is not None:
                self._fetched[key] = fetched
                if len(self._fetched) > _MAX_FETCHED:
                    self._fetched.pop(next(iter(self._fetched)))
            self._count_hold(fetch, outcome)
            del self._open[key]

    def _count_hold(self, fetch: _Open, outcome: str) -> None:
        now = time.monotonic()
        self._counts.add(f"holds_{outcome if now < fetch.until else 'deadline'}")
        self._counts.add("hold_seconds", min(now, fetch.until) - fetch.begun)
