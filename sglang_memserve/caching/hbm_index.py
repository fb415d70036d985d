"""The index of what SGLang's tree has in HBM, and the feed that publishes it.

SGLang's own event recorder hashes each page, boxes each token, leaves out the extra key, and has no snapshot
for later followers. So the index observes the tree: what inserts add and what evictions free.
"""

import logging
import threading
from typing import Any, NamedTuple

import numpy as np
import torch

from mempool.address import Addresses, BlockNumbers, Owner
from mempool.device import Device, HostCopy
from mempool.feed.feed import IndexFeed
from mempool.index.index import Index
from sglang_memserve.caching.counters import Counters
from sglang_memserve.caching.namespace import Namespace

logger = logging.getLogger(__name__)

# How long the scheduler waits for the feed while that takes a snapshot.
_LOCK_TIMEOUT_S = 0.001


class _Inserted(NamedTuple):
    """The last `blocks` whole blocks of `tokens` are new in the tree."""

    tokens: Any
    namespace: str
    blocks: int


class _Freed(NamedTuple):
    blocks: int


class _Reset(NamedTuple):
    blocks: int = 0


_Change = _Inserted | _Freed | _Reset


class _ReadChanges(NamedTuple):
    """Changes, and the pages of all of them, in order."""

    changes: list[_Change]
    pages: HostCopy


class HbmIndex:
    """Observes the tree's pages (a `PageObserver`). The blocks that it publishes have SGLang's page numbers.

    The scheduler's thread calls all methods; `feed` is for any thread. The `on_` methods only take notes: the
    slots are on `device`, and `flush` reads all of them at once. Token ids beyond an int32, which
    SGLang makes up for images, are not published, nor is what follows them.
    """

    def __init__(self, owner: Owner, page_size: int, counters: Counters, device: Device) -> None:
        self._owner = owner
        self._page_size = page_size
        self._counters = counters
        self._changes: list[_Change] = []
        self._slots: list[torch.Tensor] = []
        self._device = device
        # Those whose pages are on their way to the host.
        self._read: _ReadChanges | None = None
        self._lock = threading.Lock()
        self.feed = IndexFeed(self._lock, lambda: (owner.incarnation, self._index))
        self._index = Index(page_size, on_freed=lambda _: None, on_event=self.feed.news)

    def on_insert(self, key: Any, slots: torch.Tensor, present: int) -> None:
        stop = len(key) // self._page_size * self._page_size
        name = Namespace.of(key).name
        if present < stop and name is not None:
            self._changes.append(_Inserted(key.raw_token_ids(), name, (stop - present) // self._page_size))
            self._slots.append(slots[present : stop : self._page_size])

    def on_free(self, slots: list[torch.Tensor]) -> None:
        pages = [part[:: self._page_size] for part in slots]
        self._changes.append(_Freed(sum(map(len, pages))))
        self._slots += pages

    def on_reset(self) -> None:
        self._changes.append(_Reset())

    def flush(self) -> None:
        """Publishes the changes so far, and waits for nothing: what the device has yet to say, and all while
        the feed takes a snapshot, is left for a later call.
        """
        if self._read is None and self._changes:
            self._read = self._begin_reading()
        if self._read is None or not self._read.pages.is_here:
            return
        if not self._lock.acquire(timeout=_LOCK_TIMEOUT_S):
            return
        (changes, copy), self._read = self._read, None
        try:
            pages: BlockNumbers = copy.tensor().numpy()
            for change in changes:
                self._apply(change, pages[: change.blocks])
                pages = pages[change.blocks :]
        finally:
            self._lock.release()

    def _begin_reading(self) -> _ReadChanges:
        changes, self._changes = self._changes, []
        slots, self._slots = self._slots, []
        if not slots:
            return _ReadChanges(changes, HostCopy(torch.empty(0, dtype=torch.int32)))
        pages = torch.cat(slots) // self._page_size
        return _ReadChanges(changes, self._device.to_host(pages, torch.int32))

    def _apply(self, change: _Change, pages: BlockNumbers) -> None:
        try:
            match change:
                case _Inserted():
                    self._insert(change, pages)
                case _Freed():
                    self._index.discard(Addresses(self._owner, pages))
                case _Reset():
                    self._index.clear()
        except Exception:
            # The tree changed in a way that was never seen: the index has too little now, or too much. No
            # request may fail for that.
            logger.debug("a change of the tree is not published", exc_info=True)
            self._counters.add("hbm_events_failed")

    def _insert(self, inserted: _Inserted, pages: BlockNumbers) -> None:
        tokens = np.asarray(inserted.tokens)
        stop = len(tokens) // self._page_size
        first = stop - len(pages)
        if np.bitwise_or.reduce(tokens) >> 31:
            stop = int((tokens >> 31 != 0).argmax()) // self._page_size
        if stop > first:
            addresses = Addresses(self._owner, pages[: stop - first])
            self._index.insert(inserted.namespace, tokens[: stop * self._page_size], [addresses])
