"""What stands in a message in place of a payload's bytes: where they are."""

import struct
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

MAX_REGIONS: Final = 8
"""Of one connection. A sender has its DRAM, and a staging ring for each store."""
MAX_REGION_BYTES: Final = 1 << 42
"""Of all regions of one connection together."""
MAX_SPANS: Final = 1024
"""Of one message."""

# In place of a payload's bytes, after a header of none: what follows is a region.
A_REGION: Final = 2
REGION: Final = struct.Struct("<IQ")
_SPAN = struct.Struct("<IIQ")
MAX_LIST_BYTES: Final = MAX_SPANS * _SPAN.size


class Span(NamedTuple):
    region: int
    size: int
    offset: int


def pack(spans: Sequence[Span]) -> bytes:
    return b"".join(_SPAN.pack(*span) for span in spans)


def unpack(packed: bytes | bytearray | memoryview) -> Iterator[Span]:
    """Raises ValueError for what is no list of spans."""
    if len(packed) % _SPAN.size:
        raise ValueError(f"a list of spans of {len(packed)} bytes")
    return (Span._make(found) for found in _SPAN.iter_unpack(packed))
