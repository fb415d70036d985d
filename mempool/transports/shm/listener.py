"""The end of shm:// that listens."""

import os
import socket
from typing import Any

from mempool.endpoints import SHM_URL
from mempool.errors import MemPoolError
from mempool.sockets import SocketLimits
from mempool.transports.base import ChooseSink
from mempool.transports.shm.accepted import ShmAccepted
from mempool.transports.shm.address import ShmAddress, user_of
from mempool.transports.shm.spans import MAX_REGIONS
from mempool.transports.stream.listener import StreamListener, max_connections

_BACKLOG = 1024


class ShmListener(StreamListener):
    """Listens at `address`, and hears processes of its own user alone. `refused` counts others too."""

    def __init__(
        self,
        url: str,
        address: ShmAddress,
        limits: SocketLimits,
        max_frame_bytes: int,
        place: ChooseSink | None,
    ) -> None:
        self._address = address
        super().__init__(url, limits, max_frame_bytes, place)

    def is_private(self, source: bytes) -> bool:
        return True

    def _bound(self, url: str) -> socket.socket:
        if url != SHM_URL:
            raise MemPoolError(f"cannot listen at {url!r}: give {SHM_URL}, a name is found")
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listener.bind(self._address.socket)
            listener.listen(_BACKLOG)
            listener.setblocking(False)
        except OSError as error:
            listener.close()
            raise MemPoolError(f"cannot listen at {url!r}: {error}") from error
        return listener

    def _endpoint(self) -> str:
        return self._address.endpoint

    def _most_connections(self) -> int:
        """Each has a descriptor, and its regions one each."""
        return max(8, max_connections() // (1 + MAX_REGIONS))

    def _host_of(self, stream: socket.socket, address: Any) -> str:
        if user_of(stream) != os.geteuid():
            raise PermissionError
        return ""

    def _accepted(self, stream: socket.socket, source: bytes, host: str) -> ShmAccepted:
        stream.setblocking(False)
        return ShmAccepted(stream, source, host, self._limits, self._max_frame_bytes, self._place)
