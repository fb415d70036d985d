"""What a transport is. Nothing here blocks: whoever uses it polls `pollables`."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import zmq

from mempool.sockets import Limits

# A socket of ZeroMQ or a file descriptor.
Pollable = zmq.Socket[bytes] | int
Buffer = bytes | memoryview


class Received(NamedTuple):
    """`source` names the connection for as long as the listener lives."""

    source: bytes
    frames: Sequence[Buffer]


class Gone(NamedTuple):
    """The connection `source`, of which something was received, has ended."""

    source: bytes


class Listener(Protocol):
    endpoint: str

    @property
    def pollables(self) -> Sequence[Pollable]: ...

    def receive(self) -> Received | Gone | None:
        """The next, or None where there is none now. Connections take turns."""

    def send(self, source: bytes, frame: bytes) -> None:
        """Where the connection is gone or takes no more, nothing is sent."""

    def close(self) -> None: ...


class Connection(Protocol):
    @property
    def pollables(self) -> Sequence[Pollable]: ...

    @property
    def opened(self) -> bool:
        """Whether the other side has been reached, as of the last `receive`."""

    def receive(self) -> Sequence[Buffer] | None:
        """The next message, or None where there is none now. Raises PeerDied after the last one."""

    def send(self, frames: Sequence[Buffer]) -> bool:
        """False where the connection takes no more now. Frames may be read until the message is answered."""

    def close(self) -> None: ...


class Transport(Protocol):
    def listen(self, url: str, limits: Limits, max_frame_bytes: int) -> Listener:
        """A larger frame ends its connection. Raises MemPoolError."""

    def connect(self, endpoint: str, limits: Limits) -> Connection:
        """Raises MemPoolError for an endpoint that is none; one where nobody listens is a dead peer."""
