"""The rooms of a prefill instance. A room is where a request meets the decode instance that it goes to."""

import threading
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from enum import Enum, auto

from mempool.transfer.outgoing import OutgoingTransfer
from sglang_memserve.transfer import control
from sglang_memserve.transfer.by_layer import AnnouncedPage
from sglang_memserve.transfer.refusals import Refusals

MAX_UNCLAIMED = 16384


class RoomState(Enum):
    """In the order in which a room goes through them; many begin as OPEN."""

    # Decode has named a destination; the request has not come.
    UNCLAIMED = auto()
    # The request is here.
    OPEN = auto()
    # The request has ended.
    CLOSED = auto()


class RoomDestination:
    """One decode rank's part in a room, as a host `peer` has named it.

    `transfer`: None for a dummy rank, to which nothing is sent.
    """

    def __init__(self, message: control.Destination, peer: str) -> None:
        self.transfer: OutgoingTransfer | None = None
        self.peer = peer
        self.done = message.is_dummy
        # SGLang's name, which its common layer reads.
        self.required_dst_info_num = message.required_destinations
        # When the first blocks were queued, on the monotonic clock.
        self._began_s: float | None = None

    def attach(self, transfer: OutgoingTransfer) -> None:
        """Blocks go over that transfer."""
        self.transfer = transfer

    def begin(self) -> OutgoingTransfer | None:
        """The transfer, whose blocks are about to be queued."""
        if self.transfer is not None:
            self._began_s = self._began_s or time.monotonic()
        return self.transfer

    def fail(self, reason: str) -> None:
        """Tells decode, unless the transfer has ended. Never blocks."""
        if self.transfer is not None:
            self.transfer.fail(reason)

    def end(self) -> float:
        """The transfer has ended. Returns for how many seconds it had blocks to send."""
        self.done = True
        return 0.0 if self._began_s is None else time.monotonic() - self._began_s


@dataclass(eq=False, slots=True)
class Room:
    """`destinations`: by decode rank's endpoint. `announced_pages`: by position, the pages whose layers are
    sent ahead of SGLang's own send. `failure`: once it is closed, why the transfer failed, if it did.
    """

    number: int
    state: RoomState
    destinations: dict[str, RoomDestination] = field(default_factory=dict)
    announced_pages: dict[int, AnnouncedPage] = field(default_factory=dict)
    failure: str | None = None
    created_s: float = field(default_factory=time.monotonic)

    def fail(self, reason: str) -> None:
        """Tells each destination that has not ended. Never blocks."""
        for destination in list(self.destinations.values()):
            destination.fail(reason)

    def begin_transfers(self) -> list[OutgoingTransfer]:
        """The transfers to all destinations, whose blocks are about to be queued."""
        begun = [destination.begin() for destination in list(self.destinations.values())]
        return [transfer for transfer in begun if transfer is not None]


class Rooms:
    """The rooms that are not closed, by number; and of others, for `refuse_s` seconds, why a destination that
    comes late must be refused.

    Whoever calls holds `lock`, but for `get` and `len`. It orders what the scheduler, decode's messages and
    ended transfers do to a room.
    """

    def __init__(self, refuse_s: float, max_unclaimed: int = MAX_UNCLAIMED) -> None:
        self.lock = threading.RLock()
        self._rooms: dict[int, Room] = {}
        self._refused = Refusals(seconds=refuse_s)
        # Of destinations whose request has not come: by peer, the number in each room, the oldest room first.
        self._waiting: defaultdict[str, Counter[int]] = defaultdict(Counter)
        self._waiting_of: Counter[str] = Counter()
        self._unclaimed = 0
        self._max_unclaimed = max_unclaimed

    def __len__(self) -> int:
        return len(self._rooms)

    def get(self, number: int) -> Room | None:
        return self._rooms.get(number)

    @property
    def unclaimed(self) -> int:
        """How many destinations wait for their request."""
        return self._unclaimed

    @property
    def full(self) -> bool:
        """Whether another destination is to wait in the place of an older one only."""
        return self._unclaimed >= self._max_unclaimed

    def most_dispensable(self) -> int:
        """The oldest room without a request of the peer whose destinations take the most room."""
        peer = max(self._waiting_of, key=self._waiting_of.__getitem__)
        return next(iter(self._waiting[peer]))

    def is_open(self, number: int) -> bool:
        room = self._rooms.get(number)
        return room is not None and room.state is RoomState.OPEN

    def open(self, number: int) -> Room | None:
        """The room of a request that has come; None if another request is in it."""
        if self.is_open(number):
            return None
        room = self._rooms.get(number)
        if room is None:
            room = self._rooms[number] = Room(number, RoomState.OPEN)
        else:
            self._claim(room)
            room.state = RoomState.OPEN
        return room

    def admit(self, number: int, endpoint: str, destination: RoomDestination) -> Room:
        """The room, with that destination. An earlier one at the same endpoint fails."""
        room = self._rooms.get(number)
        if room is None:
            room = self._rooms[number] = Room(number, RoomState.UNCLAIMED)
        replaced = room.destinations.get(endpoint)
        if replaced is not None:
            replaced.fail("the decode rank has named another destination")
        if room.state is RoomState.UNCLAIMED:
            if replaced is not None:
                self._leave(number, replaced)
            self._waiting[destination.peer][number] += 1
            self._waiting_of[destination.peer] += 1
            self._unclaimed += 1
        room.destinations[endpoint] = destination
        return room

    def close(self, room: Room, failure: str | None) -> None:
        """Ends an open room."""
        room.state, room.failure = RoomState.CLOSED, failure
        del self._rooms[room.number]

    def drop(self, number: int) -> None:
        """Ends an unclaimed room, if there is one."""
        room = self._rooms.pop(number, None)
        if room is not None:
            if room.state is RoomState.UNCLAIMED:
                self._claim(room)
            room.state = RoomState.CLOSED

    def refuse(self, number: int, reason: str) -> None:
        """From now on a destination for the room is refused with that reason."""
        self._refused.add(number, reason)

    def refusal(self, number: int) -> str | None:
        """Why a destination for the room is refused, or None."""
        return self._refused.reason(number)

    def overdue(self, limit_s: float) -> list[int]:
        """The numbers of rooms whose first destination came before that moment, and whose request has not."""
        return [
            room.number
            for room in self._rooms.values()
            if room.state is RoomState.UNCLAIMED and room.created_s < limit_s
        ]

    def _claim(self, room: Room) -> None:
        """Its destinations wait no more."""
        for destination in room.destinations.values():
            self._leave(room.number, destination)

    def _leave(self, number: int, destination: RoomDestination) -> None:
        rooms = self._waiting[destination.peer]
        rooms[number] -= 1
        if not rooms[number]:
            del rooms[number]
        self._waiting_of[destination.peer] -= 1
        if not rooms:
            del self._waiting[destination.peer], self._waiting_of[destination.peer]
        self._unclaimed -= 1
