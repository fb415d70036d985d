"""What a transport is. Nothing here blocks: whoever uses it polls `pollables`, and calls `tend` in time."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import zmq

from mempool.sockets import SocketLimits

# A socket of ZeroMQ or a file descriptor.
Pollable = zmq.Socket[bytes] | int
Buffer = bytes | memoryview
# Writes to the first of these parts of memory, and returns how many bytes.
Read = Callable[[Sequence[memoryview]], int]


class PayloadSink(Protocol):
    """Where a message's payload goes while it is read, for transports that can read it there."""

    def fill(self, read: Read) -> int:
        """Calls `read` once, with parts of memory in which nothing but the rest of the payload has room;
        returns what it returned, and raises what it raised.
        """


# The place for so many bytes of payload, after the header of a message from a source. It must not raise.
ChooseSink = Callable[[bytes, Buffer, int], PayloadSink]


class IncomingMessage(NamedTuple):
    """`source` names the connection for as long as the listener lives.

    `frames`: header, and payload in any number of frames; the header alone where the payload is in `place`.
    """

    source: bytes
    frames: Sequence[Buffer]
    place: PayloadSink | None = None


class Disconnected(NamedTuple):
    """The connection `source`, of which something was received, has ended; `fault`: what it did wrong."""

    source: bytes
    fault: str = ""


class TransportListener(Protocol):
    endpoint: str

    @property
    def pollables(self) -> Sequence[Pollable]: ...

    def receive(self) -> IncomingMessage | Disconnected | None:
        """The next, or None where there is none now. Connections take turns."""

    def send(self, source: bytes, frame: bytes) -> None:
        """Where the connection is gone or takes no more, nothing is sent."""

    def tend(self) -> float | None:
        """Does what is due by the clock; in how many seconds to call it again, None for never."""

    def close(self) -> None: ...


class TransportConnection(Protocol):
    @property
    def pollables(self) -> Sequence[Pollable]: ...

    @property
    def opened(self) -> bool:
        """Whether the other side has been reached, as of the last `receive`."""

    def receive(self) -> Sequence[Buffer] | None:
        """The next message, or None where there is none now. Raises PeerDied after the last one."""

    def send(self, frames: Sequence[Buffer]) -> bool:
        """False where the connection takes no more now. Frames may be read until the message is answered."""

    def tend(self) -> float | None:
        """As that of a listener. Raises PeerDied where the other side has been silent for too long."""

    def close(self) -> None: ...


class Transport(Protocol):
    def listen(
        self, url: str, limits: SocketLimits, max_frame_bytes: int, place: ChooseSink | None = None
    ) -> TransportListener:
        """A larger frame ends its connection. A transport may do without `place`. Raises MemPoolError."""

    def connect(self, endpoint: str, limits: SocketLimits) -> TransportConnection:
        """Raises MemPoolError for an endpoint that is none; one where nobody listens is a dead peer."""
