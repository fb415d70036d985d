"""The protocol of a transport. Nothing here blocks: the user polls `pollables`, and calls `tend` in time."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import zmq

from mempool.shared_memory import SharedRegion
from mempool.sockets import SocketLimits
from mempool.speaker import ANYBODY, Speaker

# A socket of ZeroMQ or a file descriptor.
Pollable = zmq.Socket[bytes] | int
Buffer = bytes | memoryview
# Reads into these parts of memory, from the first on, and returns how many bytes.
Read = Callable[[Sequence[memoryview]], int]


class PayloadSink(Protocol):
    """Where the payload of a message goes while it is read, for transports that can read it into place."""

    @property
    def is_staging(self) -> bool:
        """Whether what it takes has to be copied once more: who has the payload in memory hands it over in
        the message's frames instead.
        """

    def fill(self, read: Read) -> int:
        """Calls `read` once, with memory that has room for the rest of the payload and no more.

        Returns what `read` returned, and raises what it raised.
        """


# Chooses the sink for the payload of a message: by source, header and bytes. It must not raise.
ChooseSink = Callable[[bytes, Buffer, int], PayloadSink]


class IncomingMessage(NamedTuple):
    """`source` names the connection for as long as the listener lives.

    `frames`: header, and payload in any number of frames; the header alone where the payload is in `place`.
    `speaker`: who sent it, as far as the transport knows.
    """

    source: bytes
    frames: Sequence[Buffer]
    place: PayloadSink | None = None
    speaker: Speaker = ANYBODY


class Disconnected(NamedTuple):
    """The connection `source`, which has sent something, has ended. `fault`: how it broke the protocol."""

    source: bytes
    fault: str = ""


class TransportListener(Protocol):
    endpoint: str

    def is_private(self, source: bytes) -> bool:
        """Whether the kernel vouches that nobody but a process of this user is at the other end."""

    @property
    def pollables(self) -> Sequence[Pollable]: ...

    def receive(self) -> IncomingMessage | Disconnected | None:
        """The next, or None where there is none now. Connections take turns."""

    def send(self, source: bytes, frame: bytes) -> None:
        """Sends nothing where the connection has ended, or takes no more now."""

    def tend(self) -> float | None:
        """Does what is due by the clock. Returns in how many seconds to call it again; None: never."""

    def close(self) -> None: ...


class PayloadMemory(Protocol):
    """What payloads have to lie in, for a connection that does not send bytes but says where they are."""

    def covers(self, regions: Sequence[SharedRegion] | None) -> bool:
        """Whether what lies in these can be sent from there. None: memory that is not shared."""

    def allocate(self, count: int) -> SharedRegion:
        """`count` bytes that can be sent from, until the connection is closed. Raises MemPoolError."""


class TransportConnection(Protocol):
    """`memory`: None where payloads may lie anywhere. `private`: as `TransportListener.is_private`."""

    memory: PayloadMemory | None
    private: bool

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
        """As for a listener. Raises PeerDied where the other side has been silent for too long."""

    def close(self) -> None: ...


class Transport(Protocol):
    def listen(
        self, url: str, limits: SocketLimits, max_frame_bytes: int, place: ChooseSink | None = None
    ) -> TransportListener:
        """A larger frame ends its connection. A transport may ignore `place`. Raises MemPoolError."""

    def connect(self, endpoint: str, limits: SocketLimits) -> TransportConnection:
        """Raises MemPoolError for a malformed endpoint. If nobody listens there, the peer is dead."""


class Fabric(Transport, Protocol):
    """A transport that is used in place of one that everybody has, where both ends can."""

    def reaches(self, endpoint: str) -> bool:
        """Whether it is worth connecting there, as far as can be said without trying."""
