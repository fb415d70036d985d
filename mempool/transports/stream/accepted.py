"""One connection at a listener."""

import socket
import time
from collections.abc import Sequence
from typing import Final

from mempool.sockets import SocketLimits
from mempool.transports.base import Buffer, ChooseSink, IncomingMessage, PayloadSink
from mempool.transports.stream.framing import ARE_YOU_THERE, I_AM, PREFIX, Clock, Writer
from mempool.transports.stream.memory import BufferSink
from mempool.wire import MAX_HEADER_BYTES

_AT_ONCE = 1024 * 1024
# Without a message: signs of life, and the parts of one header.
_READS_A_TURN = 64


class EndedError(Exception):
    """Nothing more comes of the connection; `fault`: what it did wrong."""

    def __init__(self, fault: str = "") -> None:
        self.fault: Final = fault


class AcceptedConnection:
    """Reads a message after the other: its prefix, its header, its payload to where `place` says."""

    def __init__(
        self,
        stream: socket.socket,
        source: bytes,
        host: str,
        limits: SocketLimits,
        max_frame_bytes: int,
        place: ChooseSink | None,
    ) -> None:
        self.socket = stream
        self.source = source
        self.host = host
        self.writer = Writer(stream)
        self.clock = Clock(limits)
        # Whether the listener's user has heard of it.
        self.known = False
        self.waits_for_room = False
        self._silence = limits.silence_s
        # Since when it has owed a first message, or the rest of a prefix and header.
        self._owes_since: float | None = time.monotonic()
        self._waited_for: float | None = None
        self._awake_at = 1
        self._max_frame_bytes = max_frame_bytes
        self._place = place
        self._begin()

    def is_overdue(self, *, unread: bool) -> bool:
        """Whether it has begun a message, or only itself, and brings it to no end.

        `unread`: something has come that was not read yet. It may be that end, so it is waited for, once.
        """
        owes_since = self._owes_since
        if owes_since is None or time.monotonic() - owes_since <= self._silence:
            return False
        waited, self._waited_for = self._waited_for == owes_since, owes_since
        return waited or not unread

    def read(self) -> IncomingMessage | None:
        """Reads the socket until a message is whole, or a part of a payload is read, or its turn is over.

        Raises BlockingIOError where there is nothing to read now, OSError and EndedError at its end.
        """
        for _ in range(_READS_A_TURN):
            in_payload = self._payload is not None
            message = self._read_once()
            self.known |= message is not None
            if message is not None or in_payload:
                return message
        return None

    def close(self) -> None:
        self.socket.close()

    def flush(self) -> bool:
        """Sends what there is room for; returns whether `waits_for_room` has changed. Raises OSError."""
        self.writer.flush()
        waited, self.waits_for_room = self.waits_for_room, not self.writer.empty
        return self.waits_for_room != waited

    def _read_once(self) -> IncomingMessage | None:
        count = self._target.fill(self._into)
        if not count:
            raise EndedError
        self.clock.hear()
        self._left -= count
        if not self._left:
            return self._next()
        if self._payload is None and self._owes_since is None:
            self._owes_since = time.monotonic()
        if self._left < self._awake_at:
            self._wake_at(self._left)
        return None

    def _into(self, parts: Sequence[memoryview]) -> int:
        try:
            return self.socket.recvmsg_into(parts)[0]
        except ConnectionError:
            return 0

    def _begin(self) -> None:
        self._prefix = BufferSink(PREFIX.size)
        self._header: BufferSink | None = None
        self._payload: PayloadSink | None = None
        self._aim(self._prefix, PREFIX.size)

    def _aim(self, target: PayloadSink, left: int) -> None:
        self._target, self._left = target, left
        self._wake_at(min(left, _AT_ONCE) if target is self._payload else 1)

    def _wake_at(self, count: int) -> None:
        """Polls as readable only once so much is there: large payloads are read in large parts."""
        if count != self._awake_at:
            self._awake_at = count
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, count)

    def _next(self) -> IncomingMessage | None:
        """Turns to what follows the part that is complete; the message where that was its last."""
        header_bytes, payload_bytes = PREFIX.unpack(self._prefix.bytes)
        if self._header is None:
            self._take_prefix(header_bytes, payload_bytes)
            return None
        header, payload = memoryview(self._header.bytes), self._payload
        if payload is None and payload_bytes:
            self._owes_since = None
            self._payload = self._place_for(header, payload_bytes)
            self._aim(self._payload, payload_bytes)
            return None
        self._owes_since = None
        self._begin()
        frames: list[Buffer] = [header]
        if isinstance(payload, BufferSink):
            return IncomingMessage(self.source, [*frames, memoryview(payload.bytes)])
        return IncomingMessage(self.source, frames, payload)

    def _take_prefix(self, header: int, payload: int) -> None:
        if not header and payload in (ARE_YOU_THERE, I_AM):
            if payload == ARE_YOU_THERE:
                self.writer.put_sign(I_AM)
            self._settle()
            self._begin()
            return
        max_bytes = min(self._max_frame_bytes, MAX_HEADER_BYTES)
        if not 0 < header <= max_bytes or payload > self._max_frame_bytes:
            raise EndedError(f"a message of {header} and {payload} bytes")
        if self._owes_since is None:
            self._owes_since = time.monotonic()
        self._header = BufferSink(header)
        self._aim(self._header, header)

    def _settle(self) -> None:
        """It has brought something other than a message to its end."""
        if self.known:
            self._owes_since = None

    def _place_for(self, header: Buffer, size: int) -> PayloadSink:
        return BufferSink(size) if self._place is None else self._place(self.source, header, size)
