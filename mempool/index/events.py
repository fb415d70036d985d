"""The events of an index: typed, in order, each with a sequence number.

A block is named by (run, place in the run) from its first publication to its last copy, across splits. So an
event needs neither hashes nor the tokens of the prefix before it.
"""

from collections import deque
from collections.abc import Callable
from itertools import islice
from typing import Annotated

import msgspec

from mempool.address import Owner
from mempool.errors import MemPoolError
from mempool.wire import Unsigned

Numbers = bytes
"""Block numbers, little-endian int32."""

# Owners of an index: the media of its own instance, and those of a few others if it keeps their addresses.
MAX_OWNERS = 64
# As long as the names of namespaces in the MemPool's calls.
_Namespace = Annotated[str, msgspec.Meta(max_length=256)]


class Event(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    seq: int


class Stored(Event, frozen=True, kw_only=True):
    """New blocks from `first` of `run`, below block `parent_block` of `parent_run` (-1: below the root)."""

    namespace: _Namespace
    run: Unsigned
    first: Unsigned
    parent_run: Annotated[int, msgspec.Meta(ge=-1)]
    parent_block: Annotated[int, msgspec.Meta(ge=-1)]
    tokens: bytes
    copies: Annotated[list[tuple[Owner, Numbers]], msgspec.Meta(max_length=MAX_OWNERS)]


class Copied(Event, frozen=True, kw_only=True):
    """Another owner has these blocks too."""

    run: Unsigned
    first: Unsigned
    owner: Owner
    blocks: Numbers


class Moved(Event, frozen=True, kw_only=True):
    """`target` has these blocks in place of `source`."""

    run: Unsigned
    first: Unsigned
    source: Owner
    target: Owner
    blocks: Numbers


class Removed(Event, frozen=True, kw_only=True):
    """`owner` has these blocks no more. A block without an owner is gone; nothing is below it then."""

    run: Unsigned
    first: Unsigned
    count: Unsigned
    owner: Owner


class Cleared(Event, frozen=True, kw_only=True):
    """`namespace` is empty; None: all are."""

    namespace: _Namespace | None


AnyEvent = Stored | Copied | Moved | Removed | Cleared


class Snapshot(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """All there was after event `seq`, parents before children."""

    seq: int
    page_size: int
    stored: list[Stored]


class EventGap(MemPoolError):
    """An event is not the next one: the reader needs a snapshot.

    Attributes:
        expected: The sequence number that should have come; None before the first snapshot.
        seen: The sequence number that came.
    """

    def __init__(self, expected: int | None, seen: int) -> None:
        wanted = "a snapshot first" if expected is None else f"event {expected}"
        super().__init__(f"{wanted} was expected, event {seen} came")
        self.expected = expected
        self.seen = seen


class EventLog:
    """The latest `capacity` events. It is off, and costs nothing, until the first snapshot is taken.

    `on_event` is called after each.
    """

    def __init__(self, capacity: int, on_event: Callable[[], None] | None = None) -> None:
        self.on = False
        self.seq = 0
        self._on_event = on_event
        self._events: deque[AnyEvent] = deque(maxlen=capacity)

    def turn_on(self) -> None:
        self.on = True

    def next_seq(self) -> int:
        self.seq += 1
        return self.seq

    def add(self, event: AnyEvent) -> None:
        self._events.append(event)
        if self._on_event is not None:
            self._on_event()

    def since(self, seq: int) -> list[AnyEvent] | None:
        """The events after `seq`, or None where they are not all here."""
        if not self.on or not self.seq - len(self._events) <= seq <= self.seq:
            return None
        return list(islice(self._events, len(self._events) - (self.seq - seq), None))
