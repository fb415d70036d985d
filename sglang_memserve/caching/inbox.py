"""What other threads leave for SGLang's scheduler thread."""

from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Inbox(Generic[T]):
    """A queue for one reader, without a bound. `wake` is called after each item, to end the reader's wait."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._items: deque[T] = deque()

    def __len__(self) -> int:
        return len(self._items)

    def put(self, item: T) -> None:
        """From any thread; never blocks."""
        self._items.append(item)
        self._wake()

    def wake(self) -> None:
        """The reader leaves the rest for its next turn."""
        self._wake()

    def get(self) -> T | None:
        """The oldest item, or None. For the reader alone."""
        return self._items.popleft() if self._items else None
