"""tcp:// and ipc:// over ZeroMQ."""

import threading
from collections import deque
from collections.abc import Callable, Sequence

import zmq
from zmq.utils.monitor import recv_monitor_message

from mempool.errors import MemPoolError, PeerDied
from mempool.security.access import LOOPBACK_ONLY, ClusterAccess
from mempool.security.authenticator import Authenticator
from mempool.sockets import (
    CONNECTING,
    CONNECTION_LOST,
    HANDSHAKE_FAILED,
    SocketLimits,
    new_context,
    receive_parts,
    set_bounds,
)
from mempool.speaker import Speaker, speaker_of
from mempool.transports.base import Buffer, ChooseSink, Disconnected, IncomingMessage, PayloadMemory
from mempool.wire import MAX_HEADER_BYTES, MAX_PAYLOAD_FRAMES

# A connection's last messages come before the news that it ended, unless others send without a pause.
_MESSAGES_BEFORE_GONE = 1024

Socket = zmq.Socket[bytes]


class ZeroMQ:
    """Keeps one context, and with it one thread, for as long as there is a listener or a connection.

    `access` says who is heard. `refused` counts connections that were not let in.
    """

    def __init__(self, access: ClusterAccess = LOOPBACK_ONLY) -> None:
        self.access = access
        self.refused = 0
        self._authenticator: Authenticator | None = None
        self._lock = threading.Lock()
        self._context: zmq.Context[Socket] | None = None
        self._users = 0

    def listen(
        self, url: str, limits: SocketLimits, max_frame_bytes: int, place: ChooseSink | None = None
    ) -> "ZeroMQListener":
        if url.startswith("ipc://") and not url.startswith("ipc:///"):
            raise MemPoolError(f"cannot listen at {url!r}: ipc:// needs an absolute path")
        self.access.check_bind(url)
        events = zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED | HANDSHAKE_FAILED
        ends = _MonitoredSocket(self, zmq.ROUTER, events)
        try:
            self._authenticate(ends.socket.context)
            self.access.serve(ends.socket, url)
            set_bounds(ends.socket, url, limits)
            ends.socket.setsockopt(zmq.MAXMSGSIZE, max_frame_bytes)
            ends.socket.bind(url)
        except zmq.ZMQError as error:
            ends.close()
            raise MemPoolError(f"cannot listen at {url!r}: {error}") from error
        # With the source of the message. Only blocks come with a payload.
        most_parts = 2 if place is None else 2 + MAX_PAYLOAD_FRAMES
        return ZeroMQListener(ends, url, self._refuse, most_parts)

    def connect(self, endpoint: str, limits: SocketLimits) -> "ZeroMQConnection":
        """It never reconnects: a peer that comes back is a new peer with a new endpoint."""
        ends = _MonitoredSocket(self, zmq.DEALER, CONNECTING)
        try:
            set_bounds(ends.socket, endpoint, limits)
            self.access.present(ends.socket)
            ends.socket.setsockopt(zmq.IMMEDIATE, 1)
            ends.socket.setsockopt(zmq.RECONNECT_IVL, -1)
            ends.socket.setsockopt(zmq.MAXMSGSIZE, MAX_HEADER_BYTES)
            ends.socket.connect(endpoint)
        except zmq.ZMQError as error:
            ends.close()
            raise MemPoolError(f"{endpoint!r}: {error}") from error
        return ZeroMQConnection(ends, endpoint, self.access)

    def acquire(self) -> "zmq.Context[Socket]":
        with self._lock:
            if self._context is None:
                self._context = new_context()
            self._users += 1
            return self._context

    def release(self) -> None:
        with self._lock:
            self._users -= 1
            if not self._users and self._context is not None:
                if self._authenticator is not None:
                    self._authenticator.close()
                    self._authenticator = None
                self._context.term()
                self._context = None

    def _authenticate(self, context: "zmq.Context[Socket]") -> None:
        """Before the context's first socket listens."""
        with self._lock:
            if self._authenticator is None:
                self._authenticator = Authenticator(context, self.access)

    def _refuse(self) -> None:
        with self._lock:
            self.refused += 1


class _MonitoredSocket:
    """A socket and its monitor, which is there before the first event can happen."""

    def __init__(self, owner: ZeroMQ, kind: int, events: int) -> None:
        """Raises MemPoolError where the process has no more descriptors."""
        self._owner = owner
        context = owner.acquire()
        try:
            self.socket: Socket = context.socket(kind)
            try:
                self.monitor: Socket = self.socket.get_monitor_socket(events)
            except BaseException:
                self.socket.close(linger=0)
                raise
        except zmq.ZMQError as error:
            owner.release()
            raise MemPoolError(f"cannot open a socket: {error}") from error

    def close(self) -> None:
        self.socket.disable_monitor()
        self.monitor.close(linger=0)
        self.socket.close(linger=0)
        self._owner.release()


class ZeroMQListener:
    def __init__(self, ends: _MonitoredSocket, url: str, refuse: Callable[[], None], most_parts: int) -> None:
        self._ends = ends
        self._most_parts = most_parts
        self._refuse = refuse
        self.endpoint = url
        if url.startswith("tcp://"):
            port = ends.socket.getsockopt_string(zmq.LAST_ENDPOINT).rsplit(":", 1)[1]
            self.endpoint = f"{url.rsplit(':', 1)[0]}:{port}"
        self._live: set[int] = set()
        self._known: dict[bytes, Speaker] = {}
        self._sources: dict[int, bytes] = {}
        self._gone: deque[Disconnected] = deque()
        self._reads_left = _MESSAGES_BEFORE_GONE

    @property
    def pollables(self) -> Sequence[Socket]:
        return (self._ends.socket, self._ends.monitor)

    def is_private(self, source: bytes) -> bool:
        return False

    def receive(self) -> IncomingMessage | Disconnected | None:
        try:
            if not self._reads_left:
                raise zmq.Again
            source, *frames = receive_parts(self._ends.socket, self._most_parts)
        except zmq.Again:
            self._reads_left = _MESSAGES_BEFORE_GONE
            self._watch()
            return self._next_gone() if self._gone else None
        self._reads_left -= 1
        speaker = self._known.get(source.bytes) or self._meet(source)
        return IncomingMessage(source.bytes, [frame.buffer for frame in frames], speaker=speaker)

    def send(self, source: bytes, frame: bytes) -> None:
        try:
            self._ends.socket.send_multipart([source, frame], zmq.NOBLOCK)
        except zmq.ZMQError:
            return

    def tend(self) -> None:
        """ZeroMQ's own thread does it."""

    def close(self) -> None:
        self._ends.close()

    def _watch(self) -> None:
        while self._ends.monitor.poll(0):
            event = recv_monitor_message(self._ends.monitor)
            if event["event"] & HANDSHAKE_FAILED:
                self._refuse()
                continue
            descriptor = int(event["value"])
            if event["event"] == zmq.EVENT_ACCEPTED:
                self._live.add(descriptor)
                continue
            self._live.discard(descriptor)
            source = self._sources.pop(descriptor, None)
            if source is not None:
                self._gone.append(Disconnected(source))

    def _meet(self, source: zmq.Frame) -> Speaker:
        # What happened to an earlier connection of this descriptor comes before this one's messages.
        self._watch()
        speaker = self._known[source.bytes] = speaker_of(source)
        descriptor = int(source.get(zmq.SRCFD))
        if descriptor in self._live:
            self._sources[descriptor] = source.bytes
        else:
            self._gone.append(Disconnected(source.bytes))
        return speaker

    def _next_gone(self) -> Disconnected:
        gone = self._gone.popleft()
        self._known.pop(gone.source, None)
        return gone


class ZeroMQConnection:
    memory: PayloadMemory | None = None
    private = False

    def __init__(self, ends: _MonitoredSocket, endpoint: str, access: ClusterAccess) -> None:
        self._ends = ends
        self._endpoint = endpoint
        self._access = access
        self._reached = False
        self._lost: str | None = None
        self.opened = False

    @property
    def pollables(self) -> Sequence[Socket]:
        return (self._ends.socket, self._ends.monitor)

    def receive(self) -> Sequence[Buffer] | None:
        frames = self._next()
        if frames is None:
            self._watch()
            if self._lost is not None:
                frames = self._next()
                if frames is None:
                    raise PeerDied(self._endpoint, self._lost)
        return frames

    def send(self, frames: Sequence[Buffer]) -> bool:
        try:
            self._ends.socket.send_multipart(frames, zmq.NOBLOCK, copy=False)
        except zmq.Again:
            return False
        return True

    def tend(self) -> None:
        """ZeroMQ's own thread does it."""

    def close(self) -> None:
        self._ends.close()

    def _next(self) -> Sequence[Buffer] | None:
        try:
            return self._ends.socket.recv_multipart(zmq.NOBLOCK)
        except zmq.Again:
            return None

    def _watch(self) -> None:
        while self._lost is None and self._ends.monitor.poll(0):
            event = recv_monitor_message(self._ends.monitor)["event"]
            if event & CONNECTION_LOST:
                self._lost = self._access.why_lost(opened=self.opened, reached=self._reached)
            elif event == zmq.EVENT_CONNECTED:
                self._reached = True
            else:
                self.opened = True
