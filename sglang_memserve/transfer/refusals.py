"""Why rooms were ended whose destination may still come."""

import time
from collections import OrderedDict


class Refusals:
    """Remembers a reason for `seconds`, and at most `capacity` of them."""

    def __init__(self, seconds: float = 300.0, capacity: int = 65536) -> None:
        self._seconds = seconds
        self._capacity = capacity
        self._rooms: OrderedDict[int, tuple[float, str]] = OrderedDict()

    def add(self, room: int, reason: str) -> None:
        self._rooms.pop(room, None)
        self._rooms[room] = (time.monotonic() + self._seconds, reason)
        while len(self._rooms) > self._capacity:
            self._rooms.popitem(last=False)

    def reason(self, room: int) -> str | None:
        self._expire()
        entry = self._rooms.get(room)
        return entry[1] if entry else None

    def _expire(self) -> None:
        now = time.monotonic()
        while self._rooms and next(iter(self._rooms.values()))[0] < now:
            self._rooms.popitem(last=False)
