"""stream://: blocks over plain TCP, read from where they lie and to where they go.

A message is a prefix, two unsigned 32-bit numbers (little-endian): bytes of the header, bytes of the payload;
then both. A prefix of zeros asks whether the other side is alive, which says so with a prefix of 0 and 1.
"""

from mempool.sockets import Limits
from mempool.transports.base import Placing
from mempool.transports.stream.connection import StreamConnection
from mempool.transports.stream.listener import StreamListener


class Stream:
    """Needs no thread of its own."""

    def listen(
        self, url: str, limits: Limits, max_frame_bytes: int, place: Placing | None = None
    ) -> StreamListener:
        return StreamListener(url, limits, max_frame_bytes, place)

    def connect(self, endpoint: str, limits: Limits) -> StreamConnection:
        return StreamConnection(endpoint, limits)
