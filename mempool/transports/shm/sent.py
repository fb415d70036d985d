"""The sender's regions, as it makes them known to one receiver."""

import socket
from collections.abc import Callable, Sequence

from mempool.errors import MemPoolError
from mempool.shared_memory import SharedRegion
from mempool.transports.base import Buffer
from mempool.transports.shm.spans import (
    A_REGION,
    MAX_REGION_BYTES,
    MAX_REGIONS,
    MAX_SPANS,
    REGION,
    Span,
    pack,
)
from mempool.transports.stream.framing import PREFIX, Writer
from mempool.transports.vector import Vector


class SentRegions:
    """The memory that a connection can send from. `announce` tells the receiver of one more region."""

    def __init__(self, announce: Callable[[int, SharedRegion], None]) -> None:
        self._announce = announce
        self._regions: list[SharedRegion] = []

    def covers(self, regions: Sequence[SharedRegion] | None) -> bool:
        if regions is None:
            return False
        unknown = [region for region in regions if region not in self._regions]
        if not self._has_room(unknown):
            return False
        for region in unknown:
            self._add(region)
        return True

    def allocate(self, count: int) -> SharedRegion:
        try:
            region = SharedRegion(count)
        except OSError as error:
            raise MemPoolError(f"no {count} bytes of shared memory: {error}") from error
        if not self._has_room([region]):
            raise MemPoolError(f"{count} bytes are more shared memory than a connection may use")
        self._add(region)
        return region

    def spans(self, parts: Sequence[Buffer]) -> bytes:
        """Where these are, for the wire. Raises MemPoolError for what lies elsewhere."""
        if len(parts) > MAX_SPANS:
            raise MemPoolError(f"a payload in {len(parts)} parts, at most {MAX_SPANS} are allowed")
        return pack([self._span(memoryview(part)) for part in parts])

    def close(self) -> None:
        """Lets the regions go. Those of stores stay as long as these."""
        self._regions.clear()

    def _span(self, part: memoryview) -> Span:
        for number, region in enumerate(self._regions):
            offset = region.offset_of(part)
            if offset is not None:
                return Span(number, part.nbytes, offset)
        raise MemPoolError(f"a payload of {part.nbytes} bytes does not lie in shared memory")

    def _has_room(self, more: Sequence[SharedRegion]) -> bool:
        every = [*self._regions, *more]
        return len(every) <= MAX_REGIONS and sum(region.size for region in every) <= MAX_REGION_BYTES

    def _add(self, region: SharedRegion) -> None:
        self._regions.append(region)
        self._announce(len(self._regions) - 1, region)


class RegionWriter(Writer):
    """Passes descriptors of regions on, among the messages."""

    def put_region(self, number: int, region: SharedRegion) -> None:
        self._unwritten.append(_Announcement(number, region))

    def _write(self, message: Vector) -> int:
        if not isinstance(message, _Announcement) or message.begun:
            return super()._write(message)
        passed = socket.send_fds(self._socket, list(message.head()), [message.region.fd])
        message.begun = True
        return passed


class _Announcement(Vector):
    """`begun`: the descriptor has gone, with the first byte."""

    def __init__(self, number: int, region: SharedRegion) -> None:
        super().__init__([PREFIX.pack(0, A_REGION) + REGION.pack(number, region.size)])
        self.region = region
        self.begun = False
