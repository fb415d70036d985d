"""Messages within one process, handed over and not copied."""

import itertools
import threading
from collections import deque
from collections.abc import Callable, Sequence

from mempool.errors import MemPoolError, PeerDied
from mempool.sockets import SocketLimits, Wakeup
from mempool.transports.base import Buffer, ChooseSink, Disconnected, IncomingMessage, PayloadMemory

_QUEUE_MESSAGES = 1024


class InProcess:
    """Names are known to those who use the same object."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._listeners: dict[str, InProcessListener] = {}

    def listen(
        self, url: str, limits: SocketLimits, max_frame_bytes: int, place: ChooseSink | None = None
    ) -> "InProcessListener":
        with self._lock:
            if url in self._listeners or url == "inproc://":
                raise MemPoolError(f"cannot listen at {url!r}: the name is empty or taken")
            self._listeners[url] = InProcessListener(url, max_frame_bytes, self._forget)
            return self._listeners[url]

    def connect(self, endpoint: str, limits: SocketLimits) -> "InProcessConnection":
        with self._lock:
            return InProcessConnection(endpoint, self._listeners.get(endpoint))

    def _forget(self, url: str) -> None:
        with self._lock:
            self._listeners.pop(url, None)


class InProcessListener:
    def __init__(self, endpoint: str, max_frame_bytes: int, forget: Callable[[str], None]) -> None:
        self.endpoint = endpoint
        self.max_frame_bytes = max_frame_bytes
        self.lock = threading.Lock()
        self.connections: dict[bytes, InProcessConnection] = {}
        self._forget = forget
        self._numbers = itertools.count()
        self._inbox: deque[IncomingMessage | Disconnected] = deque()
        self._wakeup = Wakeup()

    @property
    def pollables(self) -> Sequence[int]:
        return (self._wakeup.fileno(),)

    def is_private(self, source: bytes) -> bool:
        return False

    def admit(self, connection: "InProcessConnection") -> bytes:
        with self.lock:
            source = b"%d" % next(self._numbers)
            self.connections[source] = connection
            return source

    def deliver(self, item: IncomingMessage | Disconnected) -> bool:
        if len(self._inbox) >= _QUEUE_MESSAGES and isinstance(item, IncomingMessage):
            return False
        self._inbox.append(item)
        self._wakeup.set()
        return True

    def receive(self) -> IncomingMessage | Disconnected | None:
        if not self._inbox:
            self._wakeup.clear()
        return self._inbox.popleft() if self._inbox else None

    def send(self, source: bytes, frame: bytes) -> None:
        with self.lock:
            connection = self.connections.get(source)
        if connection is not None:
            connection.deliver(frame)

    def tend(self) -> None:
        """Nothing is due: one process dies as a whole."""

    def close(self) -> None:
        self._forget(self.endpoint)
        with self.lock:
            connections = list(self.connections.values())
            self.connections.clear()
        for connection in connections:
            connection.lose("connection closed")
        self._inbox.clear()
        self._wakeup.close()


class InProcessConnection:
    memory: PayloadMemory | None = None
    private = False

    def __init__(self, endpoint: str, listener: InProcessListener | None) -> None:
        self.opened = listener is not None
        self._endpoint = endpoint
        self._listener = listener
        self._lost: str | None = None
        self._inbox: deque[bytes] = deque()
        self._wakeup = Wakeup()
        if listener is None:
            self.lose("cannot connect")
        else:
            self._source = listener.admit(self)
            self._wakeup.set()

    @property
    def pollables(self) -> Sequence[int]:
        return (self._wakeup.fileno(),)

    def deliver(self, frame: bytes) -> None:
        self._inbox.append(frame)
        self._wakeup.set()

    def lose(self, cause: str) -> None:
        self._lost = cause
        self._wakeup.set()

    def receive(self) -> Sequence[Buffer] | None:
        if not self._inbox:
            self._wakeup.clear()
        # After clear(), which takes away an earlier loss's wakeup, and before the look at the inbox:
        # what came before the loss comes first.
        lost = self._lost
        if self._inbox:
            return [self._inbox.popleft()]
        if lost is not None:
            raise PeerDied(self._endpoint, lost)
        return None

    def send(self, frames: Sequence[Buffer]) -> bool:
        if self._listener is None or self._lost is not None:
            return True
        if any(memoryview(frame).nbytes > self._listener.max_frame_bytes for frame in frames):
            self.lose("connection closed")
            return True
        return self._listener.deliver(IncomingMessage(self._source, frames))

    def tend(self) -> None:
        """Nothing is due: one process dies as a whole."""

    def close(self) -> None:
        if self._listener is not None:
            with self._listener.lock:
                known = self._listener.connections.pop(self._source, None)
            if known is not None:
                self._listener.deliver(Disconnected(self._source))
        self._wakeup.close()
