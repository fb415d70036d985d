"""What is written to a stream, and when it is silent for too long."""

import socket
import struct
import time
from collections import deque
from collections.abc import Sequence

from mempool.errors import MemPoolError
from mempool.sockets import SocketLimits
from mempool.transports.base import Buffer
from mempool.transports.vector import Vector

PREFIX = struct.Struct("<II")
# In place of a payload's bytes, after a header of none.
ARE_YOU_THERE, I_AM = 0, 1
_SCHEME = "stream://"
# Far above what is sent without an answer: reaching it means a broken peer.
_MAX_UNWRITTEN = 1024


class Writer:
    """Writes messages to a socket that does not block, as it takes them."""

    def __init__(self, stream: socket.socket) -> None:
        self._socket = stream
        self._unwritten: deque[Vector] = deque()

    @property
    def full(self) -> bool:
        return len(self._unwritten) >= _MAX_UNWRITTEN

    @property
    def empty(self) -> bool:
        return not self._unwritten

    def put(self, frames: Sequence[Buffer]) -> None:
        header, payload = frames[0], frames[1:]
        size = sum(memoryview(frame).nbytes for frame in payload)
        head = b"".join((PREFIX.pack(len(header), size), header))
        self._unwritten.append(Vector([head, *payload]))

    def put_sign(self, sign: int) -> None:
        if not self.full:
            self._unwritten.append(Vector([PREFIX.pack(0, sign)]))

    def drop(self) -> None:
        """For a socket that is broken."""
        self._unwritten.clear()

    def flush(self) -> None:
        """Writes what the socket takes now. Raises OSError where it is broken."""
        while self._unwritten:
            message = self._unwritten[0]
            try:
                message.advance(self._write(message))
            except BlockingIOError:
                return
            if not message.left:
                self._unwritten.popleft()

    def _write(self, message: Vector) -> int:
        """Returns how many bytes of it the socket took."""
        return self._socket.sendmsg(message.head())


class Clock:
    """When the other side was last heard, and when to look at that again."""

    def __init__(self, limits: SocketLimits) -> None:
        self.interval = limits.heartbeat_s
        self._silence = limits.silence_s
        self._heard = time.monotonic()
        self._next = self._heard + self.interval

    def hear(self) -> None:
        self._heard = time.monotonic()

    @property
    def silent(self) -> bool:
        return time.monotonic() - self._heard > self._silence

    def due_in(self) -> float:
        """Seconds until the next look; 0 once in each interval."""
        left = self._next - time.monotonic()
        if left > 0:
            return left
        self._next = time.monotonic() + self.interval
        return 0


def address_of(url: str, *, numeric: bool) -> tuple[socket.AddressFamily, tuple[str, int]]:
    """Family and address of stream://host:port. Raises MemPoolError.

    `numeric`: a name is refused, since looking it up would block.
    """
    host, _, port = url.removeprefix(_SCHEME).rpartition(":")
    flags = socket.AI_NUMERICHOST if numeric else socket.AI_PASSIVE
    try:
        if not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
            raise OSError("give stream://host:port")
        found = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM, flags=flags)
    except (OSError, ValueError) as error:
        # ValueError: what the codec of host names says to labels that are empty or too long.
        raise MemPoolError(f"{url!r}: {error}") from error
    family, _, _, _, address = found[0]
    return family, (str(address[0]), int(address[1]))


def prepare(stream: socket.socket, limits: SocketLimits) -> None:
    """A connection that does not block, and whose peer's machine is missed when it is gone."""
    stream.setblocking(False)
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        timeout_ms = int(limits.silence_s * 1000)
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, timeout_ms)
