"""Decode's messages on the common layer's control socket, and what prefill sends with the last block."""

from typing import Annotated

import msgspec

from mempool import wire
from mempool.endpoints import MAX_FABRICS, check_endpoint
from mempool.errors import FrameError
from mempool.layout import BlockLayout
from mempool.wire import TicketKey, Unsigned
from sglang_memserve.caching.prefill_origins import PrefillOrigin

TAG = b"MEMSERVE1"
MAX_BYTES = 64 * 1024

# Decode ranks that get a part of a room's KV from one prefill rank.
MAX_DESTINATIONS = 1024
Endpoint = Annotated[str, msgspec.Meta(max_length=256)]
Fabrics = Annotated[tuple[Endpoint, ...], msgspec.Meta(max_length=MAX_FABRICS)]


class Registration(msgspec.Struct, tag="registration", frozen=True):
    """Sent once to each prefill rank: a layout that does not fit is known before the first request."""

    endpoint: Endpoint
    layout: BlockLayout


class Destination(msgspec.Struct, tag="destination", frozen=True):
    """Where the KV of one room goes.

    It repeats endpoint and layout, so that prefill keeps no registration that a restart of either side could
    make stale. A dummy rank (MLA over unequal TP) knows of the room but sends nothing. `key`: what the KV is
    to be encrypted with; None: it comes in clear. `fabrics`: endpoints of the same receiver that prefill
    prefers to `endpoint` where it can use them, best first.
    """

    room: Unsigned
    endpoint: Endpoint
    layout: BlockLayout
    ticket: Unsigned
    decode_prefix_len: Unsigned
    required_destinations: Annotated[int, msgspec.Meta(ge=1, le=MAX_DESTINATIONS)]
    is_dummy: bool
    key: TicketKey | None = None
    fabrics: Fabrics = ()


class Handoff(msgspec.Struct, frozen=True):
    """The cookie of a transfer: the request's row of each of SGLang's metadata buffers.

    `origin`: the prefill instance in the MemPool, where answers are to be sent back to.
    """

    prefill_rank: Unsigned
    rows: list[bytes]
    origin: PrefillOrigin | None = None


_control = msgspec.msgpack.Decoder(Registration | Destination)
_handoff = msgspec.msgpack.Decoder(Handoff)
encode = msgspec.msgpack.Encoder().encode


def frames(message: Registration | Destination) -> list[bytes]:
    return [TAG, encode(message)]


def decode_control(received: list[bytes]) -> Registration | Destination:
    """Raises FrameError."""
    if len(received) != 2 or received[0] != TAG or len(received[1]) > MAX_BYTES:
        raise FrameError(f"{len(received)} frames beginning {received[0][:16]!r}: not a control message")
    message: Registration | Destination = wire.decode(_control, received[1])
    try:
        check_endpoint(message.endpoint, schemes=("stream",))
        for fabric in message.fabrics if isinstance(message, Destination) else ():
            check_endpoint(fabric)
    except ValueError as error:
        raise FrameError(str(error)) from None
    return message


def decode_handoff(private: bytes) -> Handoff:
    """Raises FrameError."""
    handoff: Handoff = wire.decode(_handoff, private)
    return handoff
