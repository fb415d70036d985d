"""A plain TCP socket between two processes: either end. The most that one connection can do in Python."""

import socket
import time
from collections.abc import Iterator

import numpy as np

from benchmark.mempool.pages import RECEIVER_SEED, SENDER_SEED, scattered

_TIMEOUT_SECONDS = 60.0


class SocketEnd:
    """Memory of `blocks` blocks; each is sent with one sendall, and received into its place."""

    def __init__(self, block_bytes: int, blocks: int) -> None:
        self._rows = np.zeros((blocks, block_bytes), dtype=np.uint8)
        self._listener: socket.socket | None = None

    def listen(self) -> int:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(_TIMEOUT_SECONDS)
        return int(self._listener.getsockname()[1])

    def receive(self, blocks: int) -> None:
        """Takes one connection, and acknowledges when all has landed. Raises OSError."""
        assert self._listener is not None
        connection, _ = self._listener.accept()
        with connection:
            _prepare(connection)
            for view in self._views(blocks, RECEIVER_SEED):
                _fill(connection, view)
            connection.sendall(b"k")

    def send(self, port: int, blocks: int) -> float:
        """Seconds until the acknowledgement; connecting is not in them. Raises OSError."""
        with socket.create_connection(("127.0.0.1", port), _TIMEOUT_SECONDS) as connection:
            _prepare(connection)
            views = list(self._views(blocks, SENDER_SEED))
            began = time.perf_counter()
            for view in views:
                connection.sendall(view)
            if connection.recv(1) != b"k":
                raise ConnectionError("the receiver did not acknowledge")
            return time.perf_counter() - began

    def holds(self, stamp: int) -> bool:
        return bool((self._rows == stamp).all())

    def fill(self, stamp: int) -> None:
        self._rows.fill(stamp)

    def _views(self, blocks: int, seed: int) -> Iterator[memoryview]:
        return (memoryview(self._rows[page]) for page in scattered(blocks, len(self._rows), seed))


def _prepare(connection: socket.socket) -> None:
    connection.settimeout(_TIMEOUT_SECONDS)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _fill(connection: socket.socket, view: memoryview) -> None:
    at = 0
    while at < len(view):
        got = connection.recv_into(view[at:])
        if not got:
            raise ConnectionError("the sender closed the connection")
        at += got
