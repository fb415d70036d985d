"""The end of a stream that connects."""

import errno
import select
import socket
from collections import deque
from collections.abc import Sequence

from mempool.errors import PeerDied
from mempool.sockets import SocketLimits
from mempool.transports.base import Buffer, PayloadMemory
from mempool.transports.stream.framing import ARE_YOU_THERE, I_AM, PREFIX, Clock, Writer, address_of, prepare
from mempool.transports.stream.pacing import pace
from mempool.wire import MAX_HEADER_BYTES

Address = tuple[str, int] | str

_READ_BYTES = 64 * 1024
# Together at least as much as a header has.
_READS_A_TURN = 4


class StreamConnection:
    """It never reconnects: a peer that comes back is a new peer with a new endpoint.

    `max_bandwidth`: as that of a Stream.
    """

    memory: PayloadMemory | None = None
    private = False

    def __init__(self, endpoint: str, limits: SocketLimits, max_bandwidth: int = 0) -> None:
        self.opened = False
        self._endpoint = endpoint
        self._limits = limits
        self._max_bandwidth = max_bandwidth
        self._socket, address = self._prepared()
        try:
            # One descriptor to poll, whether it waits for bytes or for room.
            self._epoll = select.epoll()
        except BaseException:
            self._socket.close()
            raise
        self._writer = self._new_writer()
        self._clock = Clock(limits)
        self._lost: str | None = None
        self._inbox: deque[bytes] = deque()
        self._unread = bytearray()
        if self._socket.connect_ex(address) not in (0, errno.EINPROGRESS):
            self._lost = "cannot connect"
        self._waits_for_room = True
        self._epoll.register(self._socket, select.EPOLLIN | select.EPOLLOUT)

    @property
    def pollables(self) -> Sequence[int]:
        return (self._epoll.fileno(),)

    def receive(self) -> Sequence[Buffer] | None:
        if self._inbox:
            return [self._inbox.popleft()]
        if self._lost is None and (self.opened or self._has_opened()):
            self._read()
            self._flush()
        if self._inbox:
            return [self._inbox.popleft()]
        if self._lost is not None:
            raise PeerDied(self._endpoint, self._lost)
        return None

    def send(self, frames: Sequence[Buffer]) -> bool:
        if self._writer.full:
            return False
        was_empty = self._writer.empty
        self._writer.put(frames)
        if self.opened and was_empty:
            self._flush()
        return True

    def tend(self) -> float | None:
        if left := self._clock.due_in():
            return left
        if self.opened and self._lost is None:
            if self._clock.silent:
                raise PeerDied(self._endpoint, f"silent for {self._limits.silence_s:g} s")
            self._writer.put_sign(ARE_YOU_THERE)
            self._flush()
        return self._clock.interval

    def close(self) -> None:
        self._epoll.close()
        self._socket.close()

    def _prepared(self) -> tuple[socket.socket, Address]:
        """A socket that does not block, and where to connect it."""
        family, address = address_of(self._endpoint, numeric=True)
        stream = socket.socket(family, socket.SOCK_STREAM)
        try:
            prepare(stream, self._limits)
            if self._max_bandwidth:
                pace(stream, self._max_bandwidth)
        except BaseException:
            stream.close()
            raise
        return stream, address

    def _new_writer(self) -> Writer:
        return Writer(self._socket)

    def _has_opened(self) -> bool:
        if not self._epoll.poll(0):
            return False
        if self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self._lost = "cannot connect"
            return False
        self.opened = True
        self._clock.hear()
        return True

    def _flush(self) -> None:
        try:
            self._writer.flush()
        except OSError:
            # What the other side said before it closed is still to be read, and then its end.
            self._writer.drop()
        waits = not self._writer.empty
        if waits != self._waits_for_room:
            self._waits_for_room = waits
            self._epoll.modify(self._socket, select.EPOLLIN | (select.EPOLLOUT if waits else 0))

    def _read(self) -> None:
        """Some of what is there, so that a receiver that floods takes no memory; cuts it into messages."""
        try:
            for _ in range(_READS_A_TURN):
                part = self._socket.recv(_READ_BYTES)
                if not part:
                    self._lost = "connection closed"
                    break
                self._clock.hear()
                self._unread += part
        except BlockingIOError:
            pass
        except OSError as error:
            self._lost = f"connection closed: {error.strerror}"
        self._cut()

    def _cut(self) -> None:
        at = 0
        while len(self._unread) - at >= PREFIX.size:
            header, payload = PREFIX.unpack_from(self._unread, at)
            if header > MAX_HEADER_BYTES or payload > (0 if header else I_AM):
                self._lost = "it does not speak this protocol"
                break
            if len(self._unread) - at - PREFIX.size < header:
                break
            at += PREFIX.size + header
            if header:
                self._inbox.append(bytes(self._unread[at - header : at]))
            elif payload == ARE_YOU_THERE:
                self._writer.put_sign(I_AM)
        del self._unread[:at]
