"""The end of streams that listens."""

import itertools
import logging
import resource
import select
import socket
from collections import Counter, deque
from collections.abc import Sequence
from typing import Any

from mempool.errors import MemPoolError
from mempool.guard import LoopGuard
from mempool.sockets import SocketLimits, endpoint_of
from mempool.transports.base import ChooseSink, Disconnected, IncomingMessage
from mempool.transports.stream.accepted import AcceptedConnection, EndedError
from mempool.transports.stream.framing import ARE_YOU_THERE, Clock, address_of, prepare

logger = logging.getLogger(__name__)

_BACKLOG = 1024
MAX_CONNECTIONS = 4096
# For looking at the sockets once: whoever has sent something is read, and the user has other work too.
_ROUNDS_A_CALL = 16


def max_connections() -> int:
    """So that an instance has descriptors left for all else, however many strangers connect."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MAX_CONNECTIONS if limit == resource.RLIM_INFINITY else max(8, min(MAX_CONNECTIONS, limit // 4))


class StreamListener:
    """Keeps a bounded number of connections, and half of that of each host. `refused` counts those beyond.

    One that has never sent a message gives way to a newcomer, and is closed where it sends none in time.
    """

    def __init__(
        self, url: str, limits: SocketLimits, max_frame_bytes: int, place: ChooseSink | None
    ) -> None:
        self._limits = limits
        self._max_frame_bytes = max_frame_bytes
        self._place = place
        self._clock = Clock(limits)
        self._max_connections = self._most_connections()
        self.refused = 0
        self._of_host: Counter[str] = Counter()
        self._guard = LoopGuard("a connection to the block channel")
        self._numbers = itertools.count()
        self._by_number: dict[int, AcceptedConnection] = {}
        self._by_source: dict[bytes, AcceptedConnection] = {}
        self._readable: deque[AcceptedConnection] = deque()
        self._gone: deque[Disconnected] = deque()
        self._socket = self._bound(url)
        self.endpoint = self._endpoint()
        self._epoll = select.epoll()
        self._epoll.register(self._socket, select.EPOLLIN)

    @property
    def pollables(self) -> Sequence[int]:
        return (self._epoll.fileno(),)

    def is_private(self, source: bytes) -> bool:
        return False

    def receive(self) -> IncomingMessage | Disconnected | None:
        rounds_left = _ROUNDS_A_CALL
        while True:
            if not self._readable and rounds_left:
                rounds_left -= 1
                self._look()
            if not self._readable:
                return self._gone.popleft() if self._gone else None
            message = self._read(self._readable.popleft())
            if message is not None:
                return message

    def send(self, source: bytes, frame: bytes) -> None:
        accepted = self._by_source.get(source)
        if accepted is not None and not accepted.writer.full:
            accepted.writer.put([frame])
            self._flush(accepted)

    def tend(self) -> float | None:
        if left := self._clock.due_in():
            return left
        # What has come and was not read yet is no silence.
        if not self._readable:
            self._look()
        for accepted in list(self._by_source.values()):
            unread = accepted in self._readable
            if accepted.is_overdue(unread=unread):
                self._drop(accepted, "a message that does not end" if accepted.known else "")
            elif unread or not accepted.clock.silent:
                accepted.writer.put_sign(ARE_YOU_THERE)
                self._flush(accepted)
            else:
                self._drop(accepted)
        self._epoll.modify(self._socket, select.EPOLLIN)
        return self._clock.interval

    def close(self) -> None:
        for accepted in self._by_source.values():
            accepted.close()
        self._socket.close()
        self._epoll.close()

    def _bound(self, url: str) -> socket.socket:
        listener: socket.socket | None = None
        try:
            family, address = address_of(url, numeric=False)
            listener = socket.socket(family, socket.SOCK_STREAM)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(_BACKLOG)
            listener.setblocking(False)
        except (MemPoolError, OSError) as error:
            if listener is not None:
                listener.close()
            raise MemPoolError(f"cannot listen at {url!r}: {error}") from error
        return listener

    def _most_connections(self) -> int:
        return max_connections()

    def _endpoint(self) -> str:
        return endpoint_of("stream", *self._socket.getsockname()[:2])

    def _host_of(self, stream: socket.socket, address: Any) -> str:
        """Of whom it is. Raises OSError where it is refused."""
        return str(address[0])

    def _accepted(self, stream: socket.socket, source: bytes, host: str) -> AcceptedConnection:
        """Raises OSError where it is gone."""
        prepare(stream, self._limits)
        return AcceptedConnection(stream, source, host, self._limits, self._max_frame_bytes, self._place)

    def _read(self, accepted: AcceptedConnection) -> IncomingMessage | None:
        message: IncomingMessage | None = None
        try:
            message = accepted.read()
        except BlockingIOError:
            pass
        except OSError:
            self._drop(accepted)
        except EndedError as ended:
            self._drop(accepted, ended.fault)
        except Exception as error:
            self._guard.report(error)
            self._drop(accepted, f"reading failed: {error}")
        self._flush(accepted)
        return message

    def _look(self) -> None:
        """Finds whom to read once: all that have sent something take a turn before anyone takes the next."""
        for number, events in self._epoll.poll(0):
            accepted = self._by_number.get(number)
            if accepted is None:
                self._accept()
                continue
            if events & select.EPOLLOUT:
                self._flush(accepted)
            if events & ~select.EPOLLOUT:
                self._readable.append(accepted)

    def _accept(self) -> None:
        try:
            stream, address = self._socket.accept()
        except BlockingIOError:
            return
        except OSError as error:
            logger.warning("%s takes no connection now: %s", self.endpoint, error)
            # Until `tend`: polled, it would be readable all the time.
            self._epoll.modify(self._socket, 0)
            return
        try:
            host = self._host_of(stream, address)
            if not self._has_room(host):
                raise ConnectionRefusedError
            source = b"%d" % next(self._numbers)
            accepted = self._accepted(stream, source, host)
            self._epoll.register(stream, select.EPOLLIN)
        except OSError:
            self.refused += 1
            stream.close()
            return
        self._of_host[host] += 1
        self._by_number[stream.fileno()] = self._by_source[source] = accepted

    def _has_room(self, host: str) -> bool:
        """For one more connection of that host. The oldest that never sent a message makes some."""
        if self._of_host[host] >= self._max_connections // 2:
            rivals = (each for each in self._by_source.values() if each.host == host)
        elif len(self._by_source) >= self._max_connections:
            rivals = (each for each in self._by_source.values())
        else:
            return True
        # Not those that are about to be read.
        silent = next((each for each in rivals if not each.known and each not in self._readable), None)
        if silent is None:
            return False
        self.refused += 1
        self._drop(silent)
        return True

    def _flush(self, accepted: AcceptedConnection) -> None:
        if accepted.writer.empty or accepted.source not in self._by_source:
            return
        try:
            changed = accepted.flush()
        except OSError:
            # Reading will tell.
            return
        if changed:
            room = select.EPOLLOUT if accepted.waits_for_room else 0
            self._epoll.modify(accepted.socket, select.EPOLLIN | room)

    def _drop(self, accepted: AcceptedConnection, fault: str = "") -> None:
        self._of_host[accepted.host] -= 1
        if not self._of_host[accepted.host]:
            del self._of_host[accepted.host]
        del self._by_source[accepted.source]
        del self._by_number[accepted.socket.fileno()]
        self._epoll.unregister(accepted.socket)
        accepted.close()
        if accepted.known or fault:
            self._gone.append(Disconnected(accepted.source, fault))
