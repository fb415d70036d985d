"""Which prefill instance computed the request of each room, as decode remembers it until the request ends."""

import threading
from typing import Annotated, NamedTuple

import msgspec

from mempool.membership.messages import InstanceInfo

# Far above what one instance decodes at once: rooms whose requests ended unseen.
_MAX_ROOMS = 65_536


class PrefillOrigin(NamedTuple):
    """The instance that prefilled a request, and the epoch of the cache in which it keeps the prompt."""

    instance: InstanceInfo
    cache_epoch: Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]


class PrefillOrigins:
    """From any thread. The oldest rooms are forgotten first."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rooms: dict[int, PrefillOrigin] = {}

    def __len__(self) -> int:
        return len(self._rooms)

    def add(self, room: int, origin: PrefillOrigin) -> None:
        with self._lock:
            self._rooms[room] = origin
            if len(self._rooms) > _MAX_ROOMS:
                self._rooms.pop(next(iter(self._rooms)))

    def pop(self, room: int) -> PrefillOrigin | None:
        with self._lock:
            return self._rooms.pop(room, None)
