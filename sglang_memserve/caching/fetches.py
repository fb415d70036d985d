"""Prefixes that other instances have, fetched because a request's hint says so, before it is scheduled."""

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from typing import Annotated, Any

import msgspec
import numpy as np
import numpy.typing as npt

from mempool.pool import MemPool

logger = logging.getLogger(__name__)

ACTION = "memserve.fetch"


class FetchHint(msgspec.Struct, frozen=True):
    """Instance `source` has KV of this prompt; worth waiting for until the deadline. `role`: of the instance
    that is to fetch, either where none is named.
    """

    source: str = msgspec.field(name="from")
    deadline_ms: Annotated[float, msgspec.Meta(gt=0, le=60_000)] = 1000.0
    role: str | None = None


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


class Fetches:
    """Whose requests wait. `wake` is called when one need not wait any longer."""

    def __init__(self, pool: MemPool, wake: Callable[[], None]) -> None:
        self._pool = pool
        self._wake = wake
        self._lock = threading.Lock()
        self._until: dict[int, float] = {}
        self._counts: Counter[str] = Counter()

    def counters(self) -> dict[str, int]:
        with self._lock:
            return {**self._counts, "open_fetches": len(self._until)}

    def count(self, name: str, by: int = 1) -> None:
        with self._lock:
            self._counts[name] += by

    def begin(self, room: int, hint: FetchHint, tokens: npt.NDArray[np.int32], namespace: str) -> None:
        """What comes is in DRAM when the room waits no longer."""
        seconds = hint.deadline_ms / 1000
        self.count("fetches_asked")
        with self._lock:
            self._until[room] = time.monotonic() + seconds
        coming = self._pool.start.fetch(hint.source, tokens, namespace=namespace, seconds=seconds)
        coming.add_done_callback(lambda came: self._ended(room, hint, came))

    def waits(self, room: int) -> bool:
        """Whether the room's request is better scheduled later."""
        until = self._until.get(room)
        return until is not None and time.monotonic() < until

    def forget(self, room: int) -> None:
        with self._lock:
            self._until.pop(room, None)

    def _ended(self, room: int, hint: FetchHint, came: Future[int]) -> None:
        error = came.exception()
        self.forget(room)
        if error is None:
            self.count("fetches_came" if came.result() else "fetches_found_nothing")
            self.count("fetched_blocks", came.result())
        else:
            self.count(f"fetches_failed_{type(error).__name__}")
            logger.debug("a prefix from %s: %s", hint.source, error)
        self._wake()
