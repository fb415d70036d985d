"""ZeroMQ sockets of the block channel, each with bounded queues and no lingering."""

import os

import zmq

from mempool.wire import MAX_HEADER_BYTES

SILENCE_IS_DEATH_SECONDS = 10.0
_HEARTBEAT_SECONDS = 2.0
# Far above what the window of unacknowledged messages lets a peer queue: reaching it means a broken peer.
_SEND_QUEUE_MESSAGES = 1024
# Low, since a message may be large: the rest waits in the sender's window.
_RECEIVE_QUEUE_MESSAGES = 16
# As many as libzmq allows; a peer takes three, and its own default is 1,023 in all.
_MAX_SOCKETS = 65535


def tcp_endpoint(host: str, port: int) -> str:
    return f"tcp://[{host}]:{port}" if ":" in host else f"tcp://{host}:{port}"


def new_context() -> zmq.Context[zmq.Socket[bytes]]:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    context.set(zmq.MAX_SOCKETS, _MAX_SOCKETS)
    return context


def bind_router(
    context: zmq.Context[zmq.Socket[bytes]], host: str, max_message_bytes: int
) -> tuple[zmq.Socket[bytes], str]:
    """The receiving end, on a free port of `host`, and its endpoint. A larger frame closes its connection."""
    socket = context.socket(zmq.ROUTER)
    _bound(socket, tcp_endpoint(host, 0))
    socket.setsockopt(zmq.MAXMSGSIZE, max_message_bytes)
    port = socket.bind_to_random_port(tcp_endpoint(host, 0).rsplit(":", 1)[0])
    return socket, tcp_endpoint(host, port)


def connect_dealer(
    context: zmq.Context[zmq.Socket[bytes]], endpoint: str, events: int
) -> tuple[zmq.Socket[bytes], zmq.Socket[bytes]]:
    """The sending end, and a monitor of `events`, which is there before the first of them can happen.

    It never reconnects: a peer that comes back is a new peer with a new endpoint. Raises zmq.ZMQError for an
    endpoint that is none.
    """
    socket = context.socket(zmq.DEALER)
    monitor = socket.get_monitor_socket(events)
    _bound(socket, endpoint)
    socket.setsockopt(zmq.IMMEDIATE, 1)
    socket.setsockopt(zmq.RECONNECT_IVL, -1)
    socket.setsockopt(zmq.MAXMSGSIZE, MAX_HEADER_BYTES)
    socket.connect(endpoint)
    return socket, monitor


def _bound(socket: zmq.Socket[bytes], endpoint: str) -> None:
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.SNDHWM, _SEND_QUEUE_MESSAGES)
    socket.setsockopt(zmq.RCVHWM, _RECEIVE_QUEUE_MESSAGES)
    socket.setsockopt(zmq.SNDTIMEO, 0)
    socket.setsockopt(zmq.HEARTBEAT_IVL, int(_HEARTBEAT_SECONDS * 1000))
    socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, int(SILENCE_IS_DEATH_SECONDS * 1000))
    if "[" in endpoint:
        socket.setsockopt(zmq.IPV6, 1)


class Wakeup:
    """Wakes a thread that polls sockets, from any other thread."""

    def __init__(self) -> None:
        self._fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def fileno(self) -> int:
        return self._fd

    def set(self) -> None:
        os.eventfd_write(self._fd, 1)

    def clear(self) -> None:
        try:
            os.eventfd_read(self._fd)
        except BlockingIOError:
            return

    def close(self) -> None:
        os.close(self._fd)
