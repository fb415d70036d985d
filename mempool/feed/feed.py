"""The source of a feed: one index, or a succession of indexes, each with an incarnation of its own."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Protocol

from mempool.index.events import AnyEvent, Snapshot
from mempool.index.index import Index


class Feed(Protocol):
    """What a FeedServer serves. Its methods are called from any thread."""

    def events_after(self, incarnation: int, seq: int) -> list[AnyEvent] | None:
        """The events after `seq` of that incarnation. None: they are not all known, or not any more."""
        ...

    def snapshot(self) -> tuple[int, Snapshot]:
        """The present incarnation, and all its index holds. From the first call on, events are kept."""
        ...

    def listen(self, on_news: Callable[[], None] | None) -> None:
        """`on_news` is called after each event, under the index's lock: it must be quick."""
        ...


class IndexFeed:
    """The feed of the index that `current` names, with its incarnation, under `lock`."""

    def __init__(
        self, lock: AbstractContextManager[object], current: Callable[[], tuple[int, Index]]
    ) -> None:
        self._lock = lock
        self._current = current
        self._on_news: Callable[[], None] | None = None

    def events_after(self, incarnation: int, seq: int) -> list[AnyEvent] | None:
        with self._lock:
            now, index = self._current()
            return index.events_since(seq) if incarnation == now else None

    def snapshot(self) -> tuple[int, Snapshot]:
        with self._lock:
            incarnation, index = self._current()
            return incarnation, index.snapshot()

    def listen(self, on_news: Callable[[], None] | None) -> None:
        self._on_news = on_news

    def news(self) -> None:
        """Called after an event of the index, and when another index took its place."""
        on_news = self._on_news
        if on_news is not None:
            on_news()
