"""Memory that the bodies of requests take, in all."""

from __future__ import annotations

from collections.abc import Callable

from router.errors import Overloaded, PayloadTooLarge

FULL = "body_memory"
# As it came, and as it is sent to each half of a pair.
_COPIES = 3
# What begins or separates JSON's values. Read, an empty list or object takes 64 bytes or more, a number 40.
_MARKS = b",:[{"
_BYTES_OF_A_MARK = 64
# To count the marks of a shorter piece costs more than it tells.
_UNCOUNTED = 2048


class BodyMemory:
    """`held`: bytes that all requests hold together, at most `limit`.

    Where there is no more, the largest body that is still arriving gives way: slow uploads keep nobody out.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.held = 0
        self._arriving: dict[BodyReservation, None] = {}

    def reserve(self, give_way: Callable[[], None]) -> BodyReservation:
        """For a body that begins to arrive. `give_way` is to stop it; what it held counts no more by then."""
        reservation = BodyReservation(self, give_way)
        self._arriving[reservation] = None
        return reservation

    def hold(self, body: bytes) -> BodyReservation:
        """For one that has arrived. Raises as `add` does."""
        reservation = BodyReservation(self, _stays)
        reservation.add(body)
        return reservation

    def add(self, reservation: BodyReservation, size: int) -> None:
        """Raises Overloaded; and PayloadTooLarge if the body would take all of the memory there is."""
        if reservation.held + size > self.limit:
            raise PayloadTooLarge(
                f"in memory the body takes more than {self.limit} bytes (--max-body-memory)"
            )
        while self.held + size > self.limit:
            largest = max(self._arriving, key=lambda each: each.held, default=reservation)
            if largest is reservation or largest.held <= reservation.held + size:
                raise no_memory()
            largest.give_way()
        self.held += size

    def arrived(self, reservation: BodyReservation) -> None:
        self._arriving.pop(reservation, None)


class BodyReservation:
    """What one request's body takes. Release it once the request is done."""

    __slots__ = ("_memory", "_stop", "gave_way", "held")

    def __init__(self, memory: BodyMemory, stop: Callable[[], None]) -> None:
        self._memory = memory
        self._stop = stop
        self.gave_way = False
        self.held = 0

    def add(self, piece: bytes) -> None:
        """Raises Overloaded and PayloadTooLarge."""
        size = cost_of(piece)
        self._memory.add(self, size)
        self.held += size

    def arrived(self) -> None:
        """The body is whole: it gives way no more."""
        self._memory.arrived(self)

    def give_way(self) -> None:
        self.release()
        self.gave_way = True
        self._stop()

    def release(self) -> None:
        self._memory.arrived(self)
        self._memory.held -= self.held
        self.held = 0


def _stays() -> None:
    """A body that has arrived gives way to none."""


def no_memory() -> Overloaded:
    return Overloaded(FULL, "the router holds too many large requests (--max-body-memory)")


def cost_of(piece: bytes) -> int:
    """Bytes that a piece of a body takes, with its copies and with what its JSON becomes."""
    if len(piece) < _UNCOUNTED:
        return _COPIES * len(piece)
    marks = len(piece) - len(piece.translate(None, _MARKS))
    return _COPIES * len(piece) + _BYTES_OF_A_MARK * marks
