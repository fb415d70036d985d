"""One connection at a shm:// listener."""

import array
import os
import socket
from collections.abc import Sequence
from typing import Any

from mempool.transports.base import Buffer, IncomingMessage, PayloadSink
from mempool.transports.shm.mapped import MappedRegion
from mempool.transports.shm.pull import Pull
from mempool.transports.shm.spans import (
    A_REGION,
    MAX_LIST_BYTES,
    MAX_REGION_BYTES,
    MAX_REGIONS,
    REGION,
    unpack,
)
from mempool.transports.stream.accepted import AcceptedConnection, EndedError
from mempool.transports.stream.framing import PREFIX
from mempool.transports.stream.memory import BufferSink

_DESCRIPTOR_BYTES = array.array("i").itemsize
# For one descriptor: the kernel closes what is more, and says so.
_ROOM = socket.CMSG_LEN(_DESCRIPTOR_BYTES)


class ShmAccepted(AcceptedConnection):
    """Keeps a map of each of the sender's regions until it is closed."""

    def __init__(self, *args: Any) -> None:
        self._passed: list[int] = []
        self._regions: dict[int, MappedRegion] = {}
        super().__init__(*args)

    def close(self) -> None:
        super().close()
        self._drop_passed()
        for region in self._regions.values():
            region.close()
        self._regions.clear()

    def _into(self, parts: Sequence[memoryview]) -> int:
        try:
            count, passed, flags, _ = self.socket.recvmsg_into(parts, _ROOM, socket.MSG_CMSG_CLOEXEC)
        except ConnectionError:
            return 0
        for level, kind, data in passed:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                self._passed += array.array("i", data[: len(data) // _DESCRIPTOR_BYTES * _DESCRIPTOR_BYTES])
        if flags & socket.MSG_CTRUNC or len(self._passed) > 1:
            raise EndedError("more descriptors than regions")
        return count

    def _wake_at(self, count: int) -> None:
        """What is read from the socket is small."""

    def _take_prefix(self, header: int, payload: int) -> None:
        if header or payload != A_REGION:
            super()._take_prefix(header, payload)
            return
        self._header = BufferSink(REGION.size)
        self._aim(self._header, REGION.size)

    def _next(self) -> IncomingMessage | None:
        if self._header is not None and PREFIX.unpack(self._prefix.bytes) == (0, A_REGION):
            self._add_region(*REGION.unpack(self._header.bytes))
            self._settle()
            self._begin()
            return None
        message = super()._next()
        if message is None or len(message.frames) == 1:
            return message
        return self._pulled(*message.frames)

    def _place_for(self, header: Buffer, size: int) -> PayloadSink:
        if size > MAX_LIST_BYTES:
            raise EndedError(f"a list of spans of {size} bytes")
        return BufferSink(size)

    def _add_region(self, number: int, size: int) -> None:
        if number >= MAX_REGIONS or number in self._regions:
            raise EndedError(f"a region of the number {number}")
        if size + sum(region.size for region in self._regions.values()) > MAX_REGION_BYTES:
            raise EndedError(f"a region of {size} bytes")
        if not self._passed:
            raise EndedError("a region without a descriptor")
        try:
            self._regions[number] = MappedRegion(self._passed[0], size)
        except (ValueError, OSError) as error:
            raise EndedError(str(error)) from error
        finally:
            self._drop_passed()

    def _pulled(self, header: Buffer, packed: Buffer) -> IncomingMessage:
        """The message, once its payload is copied."""
        try:
            parts = [self._regions[region].part(offset, size) for region, size, offset in unpack(packed)]
        except KeyError as error:
            raise EndedError(f"a span of region {error}, which was not announced") from None
        except ValueError as error:
            raise EndedError(str(error)) from error
        pull = Pull(parts)
        if pull.size > self._max_frame_bytes:
            raise EndedError(f"a payload of {pull.size} bytes")
        sink = super()._place_for(header, pull.size)
        if sink.is_staging:
            return IncomingMessage(self.source, [header, *parts])
        pull.into(sink)
        if isinstance(sink, BufferSink):
            return IncomingMessage(self.source, [header, memoryview(sink.bytes)])
        return IncomingMessage(self.source, [header], sink)

    def _drop_passed(self) -> None:
        while self._passed:
            os.close(self._passed.pop())
