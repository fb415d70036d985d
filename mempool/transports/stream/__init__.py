"""stream://: blocks over plain TCP, read from where they lie and to where they go.

A message is a prefix, two unsigned 32-bit numbers (little-endian): bytes of the header, bytes of the payload;
then both. A prefix of zeros asks whether the other side is alive, which says so with a prefix of 0 and 1.
"""

from mempool.sockets import SocketLimits
from mempool.transports.base import ChooseSink
from mempool.transports.stream.connection import StreamConnection
from mempool.transports.stream.listener import StreamListener
from mempool.transports.stream.pacing import require_pacing


class Stream:
    """Needs no thread of its own.

    `max_bandwidth`: bytes a second that each connection sends at most, from the end that connects; 0: no
    bound. Raises MemPoolError where the platform cannot.
    """

    def __init__(self, max_bandwidth: int = 0) -> None:
        if max_bandwidth:
            require_pacing(max_bandwidth)
        self._max_bandwidth = max_bandwidth

    def listen(
        self, url: str, limits: SocketLimits, max_frame_bytes: int, place: ChooseSink | None = None
    ) -> StreamListener:
        return StreamListener(url, limits, max_frame_bytes, place)

    def connect(self, endpoint: str, limits: SocketLimits) -> StreamConnection:
        return StreamConnection(endpoint, limits, self._max_bandwidth)
