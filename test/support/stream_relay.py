"""Somebody on the way between a sender and a receiver of `stream://`, who reads and changes what passes."""

import contextlib
import socket
import struct
import threading
from collections.abc import Callable
from typing import NamedTuple

PREFIX = struct.Struct("<II")


class Passed(NamedTuple):
    """A message as it is on the wire."""

    header: bytes
    payload: bytes

    @property
    def raw(self) -> bytes:
        return PREFIX.pack(len(self.header), len(self.payload)) + self.header + self.payload


Change = Callable[[int, Passed], list[Passed]]


class StreamRelay:
    """Passes connections to `endpoint` on. `sent`, `answered`: the messages of either direction as they came.

    `change(number, message)` says what is passed to the receiver in place of a message, `change_answer` to
    the sender; an EOFError there cuts the connection.
    """

    def __init__(self, endpoint: str) -> None:
        host, _, port = endpoint.removeprefix("stream://").rpartition(":")
        self._to = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"stream://127.0.0.1:{self._listener.getsockname()[1]}"
        self.sent: list[Passed] = []
        self.answered: list[Passed] = []
        self.change: Change = lambda number, message: [message]
        self.change_answer: Change = lambda number, message: [message]
        self._sockets: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def close(self) -> None:
        accepting, *pumps = self._threads
        _shut_down(self._listener)
        accepting.join(20)
        for each in self._sockets:
            _shut_down(each)
        for thread in pumps:
            thread.join(20)
        for each in (self._listener, *self._sockets):
            each.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                self._sockets.append(near)
                far = socket.create_connection(self._to, 20)
                self._sockets.append(far)
                far.settimeout(None)
                self._pump(near, far, self.sent, lambda *passed: self.change(*passed))
                self._pump(far, near, self.answered, lambda *passed: self.change_answer(*passed))

    def _pump(self, source: socket.socket, target: socket.socket, seen: list[Passed], change: Change) -> None:
        def run() -> None:
            with contextlib.suppress(OSError, EOFError):
                while True:
                    prefix = _exactly(source, PREFIX.size)
                    header, payload = PREFIX.unpack(prefix)
                    if not header:
                        # A sign of life.
                        target.sendall(prefix)
                        continue
                    message = Passed(_exactly(source, header), _exactly(source, payload))
                    seen.append(message)
                    for each in change(len(seen) - 1, message):
                        target.sendall(each.raw)
            _shut_down(source)
            _shut_down(target)

        self._threads.append(threading.Thread(target=run, daemon=True))
        self._threads[-1].start()


def _shut_down(stream: socket.socket) -> None:
    with contextlib.suppress(OSError):
        stream.shutdown(socket.SHUT_RDWR)


def _exactly(source: socket.socket, count: int) -> bytes:
    found = bytearray()
    while len(found) < count:
        part = source.recv(count - len(found))
        if not part:
            raise EOFError
        found += part
    return bytes(found)
