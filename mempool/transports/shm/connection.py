"""The end of shm:// that connects, and sends."""

import os
import socket
from collections.abc import Sequence

from mempool.shared_memory import SharedRegion
from mempool.sockets import SocketLimits
from mempool.transports.base import Buffer
from mempool.transports.shm.address import ShmAddress, user_of
from mempool.transports.shm.sent import RegionWriter, SentRegions
from mempool.transports.stream.connection import Address, StreamConnection
from mempool.transports.stream.framing import Writer


class ShmConnection(StreamConnection):
    """Says nothing to a listener of another user. Payloads have to lie in its `memory`."""

    private = True

    def __init__(self, endpoint: str, limits: SocketLimits) -> None:
        self.memory = self._sent = SentRegions(self._announce)
        super().__init__(endpoint, limits)

    def send(self, frames: Sequence[Buffer]) -> bool:
        header, *payload = frames
        return super().send([header, self._sent.spans(payload)] if payload else frames)

    def close(self) -> None:
        super().close()
        self._sent.close()
        self._writer.drop()

    def _prepared(self) -> tuple[socket.socket, Address]:
        address = ShmAddress.of(self._endpoint)
        stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        stream.setblocking(False)
        return stream, address.socket

    def _new_writer(self) -> Writer:
        self._regions = RegionWriter(self._socket)
        return self._regions

    def _has_opened(self) -> bool:
        if not super()._has_opened():
            return False
        if user_of(self._socket) != os.geteuid():
            self._lost = "it is another user's"
            self.opened = False
        return self.opened

    def _announce(self, number: int, region: SharedRegion) -> None:
        self._regions.put_region(number, region)
        if self.opened:
            self._flush()
