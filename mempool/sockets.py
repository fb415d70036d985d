"""ZeroMQ sockets with bounded queues and no lingering, and a way to wake a thread that polls them."""

import math
import os
import threading
from dataclasses import dataclass
from typing import Any

import zmq

from mempool.host_memory import return_freed_memory

# Far above what is sent without an answer: reaching it means a broken peer.
_SEND_QUEUE_MESSAGES = 1024
# Low, since a message may be large: the rest waits in the sender's window.
_RECEIVE_QUEUE_MESSAGES = 16
# Instances that one thread keeps a connection to. Peers say where they are reached, as often as they like.
MAX_PEERS = 1024
# Dropped parts of one message beyond this are not left to the C library.
_DROPPED_BYTES = 4 << 20
# As many as libzmq allows; a peer takes three, and its own default is 1,023 in all.
_MAX_SOCKETS = 65535

HANDSHAKE_FAILED = (
    zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
)
"""Events of a socket's monitor: one at the other end was not let in."""

CONNECTION_LOST = zmq.EVENT_DISCONNECTED | zmq.EVENT_CLOSED | zmq.EVENT_CONNECT_RETRIED | HANDSHAKE_FAILED
"""Events of the monitor of a socket that connects: its connection is gone, or never was."""

CONNECTING = zmq.EVENT_CONNECTED | zmq.EVENT_HANDSHAKE_SUCCEEDED | CONNECTION_LOST
"""All that such a monitor is asked for: somebody listens there; it may be spoken to; it is gone."""


@dataclass(frozen=True)
class SocketLimits:
    """When a peer counts as dead. A connection that closes is dead at once.

    Attributes:
        connect_s: How long a connection may take to open, in seconds.
        silence_s: How long an open connection may be silent, in seconds.
    """

    connect_s: float = 5.0
    silence_s: float = 10.0

    @property
    def heartbeat_s(self) -> float:
        """How often each side shows that it is alive, in seconds."""
        return self.silence_s / 5


def endpoint_of(scheme: str, host: str, port: int) -> str:
    """scheme://host:port, with brackets around an IPv6 address."""
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def new_context() -> zmq.Context[zmq.Socket[bytes]]:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    context.set(zmq.MAX_SOCKETS, _MAX_SOCKETS)
    return context


def set_bounds(socket: zmq.Socket[Any], endpoint: str, limits: SocketLimits) -> None:
    """Sets the options that every socket has, before it listens or connects."""
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.SNDHWM, _SEND_QUEUE_MESSAGES)
    socket.setsockopt(zmq.RCVHWM, _RECEIVE_QUEUE_MESSAGES)
    socket.setsockopt(zmq.SNDTIMEO, 0)
    socket.setsockopt(zmq.HEARTBEAT_IVL, int(limits.heartbeat_s * 1000))
    socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, int(limits.silence_s * 1000))
    if "[" in endpoint:
        socket.setsockopt(zmq.IPV6, 1)


def receive_parts(socket: zmq.Socket[Any], at_most: int, flags: int = zmq.NOBLOCK) -> list[zmq.Frame]:
    """The next message: its first `at_most` parts, and one more if it has more. Raises zmq.Again.

    ZeroMQ bounds the size of a part, and not how many of them a message has: the others are dropped.
    """
    parts: list[zmq.Frame] = []
    dropped, more = 0, True
    while more:
        part = socket.recv(flags, copy=False)
        more = part.more
        if len(parts) <= at_most:
            parts.append(part)
        else:
            dropped += len(part)
    if dropped > _DROPPED_BYTES:
        del part
        return_freed_memory()
    return parts


def poll_ms(*seconds: float | None) -> int | None:
    """How long to poll if something is due after each of these times. None: for ever."""
    due = [each for each in seconds if each is not None]
    return max(0, math.ceil(min(due) * 1000)) if due else None


class Wakeup:
    """Wakes a thread that polls sockets, from any other thread, also when that thread has ended."""

    def __init__(self) -> None:
        self._fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._closed = False
        # Without it a late `set` may reach whatever got the number of the closed descriptor.
        self._lock = threading.Lock()

    def fileno(self) -> int:
        return self._fd

    def set(self) -> None:
        with self._lock:
            if not self._closed:
                os.eventfd_write(self._fd, 1)

    def clear(self) -> None:
        try:
            os.eventfd_read(self._fd)
        except BlockingIOError:
            return

    def close(self) -> None:
        """Idempotent."""
        with self._lock:
            if not self._closed:
                self._closed = True
                os.close(self._fd)
