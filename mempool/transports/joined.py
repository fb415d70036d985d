"""Several listeners as one: a receiver that is reached over several fabrics."""

import logging
from collections.abc import Callable, Sequence
from functools import partial

from mempool.errors import MemPoolError
from mempool.sockets import SocketLimits
from mempool.transports.base import (
    Buffer,
    ChooseSink,
    Disconnected,
    IncomingMessage,
    PayloadSink,
    Pollable,
    TransportListener,
)
from mempool.transports.registry import Transports
from mempool.wire import MAX_PIECE_BYTES

logger = logging.getLogger(__name__)


def listen_at(
    transports: Transports, fabrics: Sequence[str], url: str, limits: SocketLimits, place: ChooseSink
) -> tuple[TransportListener, tuple[str, ...]]:
    """A listener at `url`, and at those of `fabrics` that this host has; the endpoints of the latter.

    Raises MemPoolError where `url` cannot be listened at.
    """
    if not fabrics:
        return transports.listen(url, limits, MAX_PIECE_BYTES, place), ()
    joined = JoinedListener(place)
    try:
        for fabric in fabrics:
            try:
                joined.add(partial(transports.listen, fabric, limits, MAX_PIECE_BYTES))
            except MemPoolError as error:
                logger.warning("blocks do not come over %s here: %s", fabric, error)
        joined.add(partial(transports.listen, url, limits, MAX_PIECE_BYTES))
    except BaseException:
        joined.close()
        raise
    *others, joined.endpoint = joined.endpoints
    return joined, tuple(others)


class JoinedListener:
    """`endpoint` is that of the last listener added. Sources are named after their listener too."""

    endpoint = ""

    def __init__(self, place: ChooseSink) -> None:
        self._place = place
        self._listeners: list[TransportListener] = []
        # Whose turn is next.
        self._next = 0

    @property
    def endpoints(self) -> list[str]:
        return [listener.endpoint for listener in self._listeners]

    def add(self, listen: Callable[[ChooseSink], TransportListener]) -> None:
        """`listen` makes a listener that asks where payloads go. Raises what that raises."""
        self._listeners.append(listen(partial(self._placed, len(self._listeners))))

    @property
    def pollables(self) -> Sequence[Pollable]:
        return [pollable for listener in self._listeners for pollable in listener.pollables]

    def is_private(self, source: bytes) -> bool:
        listener, name = self._of(source)
        return listener.is_private(name)

    def receive(self) -> IncomingMessage | Disconnected | None:
        for _ in self._listeners:
            number = self._next
            self._next = (number + 1) % len(self._listeners)
            received = self._listeners[number].receive()
            if received is not None:
                return received._replace(source=_joined(number, received.source))
        return None

    def send(self, source: bytes, frame: bytes) -> None:
        listener, name = self._of(source)
        listener.send(name, frame)

    def tend(self) -> float | None:
        due = [left for left in (listener.tend() for listener in self._listeners) if left is not None]
        return min(due, default=None)

    def close(self) -> None:
        for listener in self._listeners:
            listener.close()

    def _placed(self, number: int, source: bytes, header: Buffer, size: int) -> PayloadSink:
        return self._place(_joined(number, source), header, size)

    def _of(self, source: bytes) -> tuple[TransportListener, bytes]:
        return self._listeners[source[0]], source[1:]


def _joined(number: int, source: bytes) -> bytes:
    return bytes((number,)) + source
