"""The end of streams that listens."""

import itertools
import logging
import select
import socket
from collections import deque
from collections.abc import Sequence

from mempool.errors import MemPoolError
from mempool.sockets import SocketLimits, endpoint_of
from mempool.transports.base import ChooseSink, Disconnected, IncomingMessage
from mempool.transports.stream.accepted import AcceptedConnection, EndedError
from mempool.transports.stream.framing import ARE_YOU_THERE, Clock, address_of, prepare

logger = logging.getLogger(__name__)

_BACKLOG = 1024


class StreamListener:
    def __init__(
        self, url: str, limits: SocketLimits, max_frame_bytes: int, place: ChooseSink | None
    ) -> None:
        self._limits = limits
        self._max_frame_bytes = max_frame_bytes
        self._place = place
        self._clock = Clock(limits)
        self._numbers = itertools.count()
        self._by_number: dict[int, AcceptedConnection] = {}
        self._by_source: dict[bytes, AcceptedConnection] = {}
        self._readable: deque[AcceptedConnection] = deque()
        self._gone: deque[Disconnected] = deque()
        self._socket = self._bound(url)
        self.endpoint = endpoint_of("stream", *self._socket.getsockname()[:2])
        self._epoll = select.epoll()
        self._epoll.register(self._socket, select.EPOLLIN)

    @property
    def pollables(self) -> Sequence[int]:
        return (self._epoll.fileno(),)

    def receive(self) -> IncomingMessage | Disconnected | None:
        while True:
            if not self._readable:
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
            if not accepted.clock.silent or accepted in self._readable:
                accepted.writer.put_sign(ARE_YOU_THERE)
                self._flush(accepted)
            else:
                self._drop(accepted)
        self._epoll.modify(self._socket, select.EPOLLIN)
        return self._clock.interval

    def close(self) -> None:
        for accepted in self._by_source.values():
            accepted.socket.close()
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
            stream, _ = self._socket.accept()
        except BlockingIOError:
            return
        except OSError as error:
            logger.warning("%s takes no connection now: %s", self.endpoint, error)
            # Until `tend`: polled, it would be readable all the time.
            self._epoll.modify(self._socket, 0)
            return
        prepare(stream, self._limits)
        source = b"%d" % next(self._numbers)
        accepted = AcceptedConnection(stream, source, self._limits, self._max_frame_bytes, self._place)
        self._by_number[stream.fileno()] = self._by_source[source] = accepted
        self._epoll.register(stream, select.EPOLLIN)

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
        del self._by_source[accepted.source]
        del self._by_number[accepted.socket.fileno()]
        self._epoll.unregister(accepted.socket)
        accepted.socket.close()
        if accepted.known or fault:
            self._gone.append(Disconnected(accepted.source, fault))
