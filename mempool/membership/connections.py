"""The registry's end of its connections."""

import errno
import logging
import time

import zmq
from zmq.utils.monitor import recv_monitor_message

from mempool.endpoints import check_endpoint
from mempool.errors import MemPoolError
from mempool.security.access import ClusterAccess
from mempool.security.authenticator import Authenticator
from mempool.sockets import HANDSHAKE_FAILED, receive_parts

logger = logging.getLogger(__name__)

# For how long a connection that a monitor's event may have meant is asked whether it is still there.
_DOUBT_SECONDS = 0.5
# A member that has so many messages to read is not reading; it will see the gap.
_SEND_QUEUE_MESSAGES = 1024
# Of one connection. A member has a beat under way, and a join.
_RECEIVE_QUEUE_MESSAGES = 64


class Connections:
    """A ROUTER socket that notices which of its watched connections closed.

    A connection is known by the id that the socket gave it, which is not used again. The monitor's event has
    only its file descriptor, which may be in use again by then, and comes a moment before the socket itself
    knows; so the event is a hint, and what closed is a connection that a send cannot find any more.
    """

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        url: str,
        access: ClusterAccess,
        *,
        max_frame_bytes: int,
        silence: float,
    ) -> None:
        """`access`: who is heard. `silence`: seconds after which a connection whose host does not answer is
        closed. `refused`, below, counts connections that were not let in.

        Raises MemPoolError when `url` cannot be listened on.
        """
        try:
            check_bind(url)
        except ValueError as error:
            raise MemPoolError(str(error)) from None
        access.check_bind(url)
        self.refused = 0
        self._authenticator = Authenticator(context, access)
        self.socket = context.socket(zmq.ROUTER)
        self.monitor = self.socket.get_monitor_socket(zmq.EVENT_DISCONNECTED | HANDSHAKE_FAILED)
        self._by_fd: dict[int, set[bytes]] = {}
        self._fds: dict[bytes, int] = {}
        self._doubtful: dict[bytes, float] = {}
        self._closed: set[bytes] = set()
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self.socket.setsockopt(zmq.SNDHWM, _SEND_QUEUE_MESSAGES)
        self.socket.setsockopt(zmq.RCVHWM, _RECEIVE_QUEUE_MESSAGES)
        self.socket.setsockopt(zmq.MAXMSGSIZE, max_frame_bytes)
        self.socket.setsockopt(zmq.HEARTBEAT_IVL, int(silence * 1000))
        self.socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, int(silence * 1000))
        if "[" in url:
            self.socket.setsockopt(zmq.IPV6, 1)
        try:
            access.serve(self.socket, url)
            self.socket.bind(url)
        except (zmq.ZMQError, OSError) as error:
            self.close()
            raise MemPoolError(f"cannot listen on {url}: {error}") from None
        self.endpoint = self.socket.getsockopt_string(zmq.LAST_ENDPOINT)

    @property
    def in_doubt(self) -> bool:
        return bool(self._doubtful)

    def receive(self) -> list[zmq.Frame] | None:
        try:
            return receive_parts(self.socket, 2)
        except zmq.Again:
            return None

    def send(self, connection: bytes, frame: bytes) -> None:
        """Drops what a full queue does not take."""
        try:
            self.socket.send_multipart([connection, frame], zmq.NOBLOCK)
        except zmq.ZMQError as error:
            if error.errno == errno.EHOSTUNREACH and connection in self._fds:
                self._closed.add(connection)
            else:
                logger.debug("a message is dropped: %s", error)

    def watch(self, frames: list[zmq.Frame]) -> None:
        """Watches the connection on which these frames came."""
        connection = frames[0].bytes
        self.forget(connection)
        fd = int(frames[-1].get(zmq.SRCFD))
        self._fds[connection] = fd
        self._by_fd.setdefault(fd, set()).add(connection)

    def forget(self, connection: bytes) -> None:
        fd = self._fds.pop(connection, None)
        self._doubtful.pop(connection, None)
        self._closed.discard(connection)
        if fd is not None:
            self._by_fd[fd].discard(connection)
            if not self._by_fd[fd]:
                del self._by_fd[fd]

    def hear_of_closed(self) -> None:
        """Takes the monitor's hints. Read what was received before `closed` is asked: it came first."""
        while self.monitor.poll(0):
            event = recv_monitor_message(self.monitor)
            if event["event"] & HANDSHAKE_FAILED:
                self.refused += 1
                continue
            for connection in self._by_fd.get(int(event["value"]), ()):
                self._doubtful[connection] = time.monotonic() + _DOUBT_SECONDS

    def closed(self, probe: bytes) -> list[bytes]:
        """The watched connections that closed, each once; it is no longer watched then.

        `probe`: a message that means nothing to one that is still there.
        """
        for connection, until in list(self._doubtful.items()):
            self.send(connection, probe)
            if time.monotonic() > until:
                del self._doubtful[connection]
        closed = list(self._closed)
        for connection in closed:
            self.forget(connection)
        return closed

    def close(self) -> None:
        self.socket.disable_monitor()
        self.monitor.close(linger=0)
        self.socket.close(linger=0)
        self._authenticator.close()


def check_bind(url: str) -> None:
    """Raises ValueError for what no registry can listen on."""
    try:
        # libzmq takes a port that is too large for another one.
        check_endpoint(url, lowest_port=0)
    except ValueError as error:
        raise ValueError(f"cannot listen on {url}: {error}") from None
    if not url.startswith(("tcp://", "ipc://")):
        raise ValueError(f"cannot listen on {url}: give tcp://host:port or ipc://path")
