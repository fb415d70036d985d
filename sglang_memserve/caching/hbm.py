"""What SGLang's tree has in HBM, as an index that others can follow.

SGLang's own recorder of events hashes each page and boxes each token, says no extra key, and tells no
newcomer what was there before. So the tree's changes are watched: what inserts add, what evictions free.
"""

import logging
import threading
from typing import Any, NamedTuple

import numpy as np
import torch

from mempool.address import Addresses, BlockNumbers, Owner
from mempool.feed.feed import IndexFeed
from mempool.index.index import Index
from sglang_memserve.caching.counters import Counters
from sglang_memserve.caching.tree import Namespace, name_of

logger = logging.getLogger(__name__)

# What the scheduler waits for a follower that is told what is new.
_PATIENCE_SECONDS = 0.001


class _Entered(NamedTuple):
    """The last `blocks` blocks of the tokens, of which all but a tail below a page are meant."""

    tokens: Any
    namespace: str
    blocks: int


class _Left(NamedTuple):
    blocks: int


class _Emptied(NamedTuple):
    blocks: int = 0


class HbmIndex:
    """The blocks' numbers are SGLang's pages, which nobody else may turn to.

    Its methods are the scheduler's. They only take note: on CUDA the pages are on the device, and are all
    read at once by `flush`. `feed` is anyone's. Namespaces are the MemPool's: see `name_of`. Tokens beyond an
    int32, which SGLang makes up for images, are not told, nor is what follows them.
    """

    def __init__(self, owner: Owner, page_size: int, counts: Counters) -> None:
        self._owner = owner
        self._page = page_size
        self._counts = counts
        self._noted: list[_Entered | _Left | _Emptied] = []
        self._slots: list[torch.Tensor] = []
        self._lock = threading.Lock()
        self.feed = IndexFeed(self._lock, lambda: (owner.incarnation, self._index))
        self._index = Index(page_size, on_freed=lambda _: None, on_event=self.feed.news)

    def entered(self, key: Any, slots: torch.Tensor, present: int) -> None:
        """The tree has this key now, with these slots for it; the first `present` tokens it had before."""
        stop = len(key) // self._page * self._page
        name = name_of(Namespace(key.extra_key, key.cache_salt))
        if present < stop and name is not None:
            self._noted.append(_Entered(key.raw_token_ids(), name, (stop - present) // self._page))
            self._slots.append(slots[present : stop : self._page])

    def left(self, slots: list[torch.Tensor]) -> None:
        """The tree has freed these, whole pages each."""
        pages = [each[:: self._page] for each in slots]
        self._noted.append(_Left(sum(map(len, pages))))
        self._slots += pages

    def emptied(self) -> None:
        self._noted.append(_Emptied())

    def flush(self) -> None:
        """Tells what was noted; later, where a follower is being told all there is."""
        if not self._noted or not self._lock.acquire(timeout=_PATIENCE_SECONDS):
            return
        noted, self._noted = self._noted, []
        try:
            pages = self._pages()
            for each in noted:
                self._apply(each, pages[: each.blocks])
                pages = pages[each.blocks :]
        finally:
            self._lock.release()

    def _pages(self) -> BlockNumbers:
        slots, self._slots = self._slots, []
        if not slots:
            return np.empty(0, dtype=np.int32)
        pages: BlockNumbers = (torch.cat(slots) // self._page).to("cpu", torch.int32).numpy()
        return pages

    def _apply(self, noted: _Entered | _Left | _Emptied, pages: BlockNumbers) -> None:
        try:
            match noted:
                case _Entered():
                    self._enter(noted, pages)
                case _Left():
                    self._index.discard(Addresses(self._owner, pages))
                case _Emptied():
                    self._index.clear()
        except Exception:
            # SGLang did what nobody has seen it do: others know too little of its tree, or too much. No
            # request may end for that.
            logger.debug("not told to followers", exc_info=True)
            self._counts.add("hbm_events_untold")

    def _enter(self, entered: _Entered, pages: BlockNumbers) -> None:
        tokens = np.asarray(entered.tokens)
        stop = len(tokens) // self._page
        first = stop - len(pages)
        if np.bitwise_or.reduce(tokens) >> 31:
            stop = int((tokens >> 31 != 0).argmax()) // self._page
        if stop > first:
            pages = pages[: stop - first]
            self._index.insert(
                entered.namespace, tokens[: stop * self._page], [Addresses(self._owner, pages)]
            )
