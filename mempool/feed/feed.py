"""What a feed tells from: one index, or a succession of them, each of an incarnation of its own."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Protocol

from mempool.index.events import AnyEvent, Snapshot
from mempool.index.index import Index


class Feed(Protocol):
    """From any thread."""

    def after(self, incarnation: int, seq: int) -> list[AnyEvent] | None:
        """The events after `seq` of that incarnation; None where they are not all known, or not any more."""
        ...

    def whole(self) -> tuple[int, Snapshot]:
        """The incarnation that it is now, and all there is. From the first one on, events are kept."""
        ...

    def listen(self, on_news: Callable[[], None] | None) -> None:
        """`on_news` is called after each event, under the index's lock: it must be quick."""
        ...


class IndexFeed:
    """Of the index, and its incarnation, that `current` names under `lock`."""

    def __init__(
        self, lock: AbstractContextManager[object], current: Callable[[], tuple[int, Index]]
    ) -> None:
        self._lock = lock
        self._current = current
        self._on_news: Callable[[], None] | None = None

    def after(self, incarnation: int, seq: int) -> list[AnyEvent] | None:
        with self._lock:
            now, index = self._current()
            return index.events_since(seq) if incarnation == now else None

    def whole(self) -> tuple[int, Snapshot]:
        with self._lock:
            incarnation, index = self._current()
            return incarnation, index.snapshot()

    def listen(self, on_news: Callable[[], None] | None) -> None:
        self._on_news = on_news

    def news(self) -> None:
        """An index has an event more, or another one is in its place."""
        on_news = self._on_news
        if on_news is not None:
            on_news()
