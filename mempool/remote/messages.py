"""What one instance asks of another: typed msgpack, one frame a message. Imports no torch.

caller to owner                                     owner to caller
---------------                                     ---------------
AllocMem                                            Allocated
FreeMem                                             Done
Offer: blocks that the caller wants to send         Admitted: a ticket of the block channel, and where they go
Fetch: tokens whose blocks are to be sent to it     Comes: how many will be offered
                                                    FetchEnds, which is asked: none after all
                                                    (Done is the caller's answer to it)
any                                                 Failed
"""

import hashlib
from collections.abc import Mapping
from typing import Annotated, TypeVar

import msgspec
import numpy as np

from mempool.address import BlockNumbers, Medium, Owner
from mempool.errors import BadAddress, FrameError, OutOfBlocks, Refused, StaleAddress
from mempool.layout import BlockLayout
from mempool.wire import Reason, TicketKey, Unsigned, decode_bounded

# Tokens are four bytes each: room for a prompt of a million, and its blocks.
MAX_BYTES = 8 << 20
MAX_COOKIE_BYTES = 64 << 10
# Nothing is kept for another instance for longer without a word of it.
MAX_TIMEOUT_S = 600.0
# An answer names them all in one header frame.
MAX_BLOCKS = 65_000

Count = Annotated[int, msgspec.Meta(ge=0, le=MAX_BLOCKS)]
PackedBlocks = Annotated[bytes, msgspec.Meta(max_length=4 << 20)]
Name = Annotated[str, msgspec.Meta(max_length=256)]
Cookie = Annotated[bytes, msgspec.Meta(min_length=16, max_length=16)]


class AllocMem(msgspec.Struct, tag="alloc", frozen=True):
    medium: Medium
    count: Count


class FreeMem(msgspec.Struct, tag="free", frozen=True):
    medium: Medium
    incarnation: Unsigned
    blocks: PackedBlocks


class Offer(msgspec.Struct, tag="offer", frozen=True):
    """`blocks`: the destination, blocks that `AllocMem` gave; None: the owner allocates.

    `tokens`: int32; with them the owner publishes the blocks, which are the last ones of these tokens, and
    keeps them for `pin_s` at least. `digest`: `namespace_digest` of what the sender's blocks mean. `fetch`:
    the cookie of the part of a fetch that this is; the owner knows its tokens, and finds it a place in DRAM.
    """

    layout: BlockLayout
    medium: Medium
    count: Count
    incarnation: Unsigned | None = None
    blocks: PackedBlocks | None = None
    namespace: Name = ""
    pin_s: Annotated[float, msgspec.Meta(ge=0, le=MAX_TIMEOUT_S)] = 0.0
    tokens: Annotated[bytes, msgspec.Meta(max_length=MAX_BYTES)] | None = None
    digest: Annotated[bytes, msgspec.Meta(max_length=16)] = b""
    fetch: Cookie | None = None


class FetchRequest(msgspec.Struct, tag="fetch", frozen=True):
    """`cookie` comes with the blocks as the `private` of their transfer. `tokens`: int32.

    `from_engine`: it is worth the wait until an engine that owns its HBM has been asked for those of the
    tokens that only its HBM has. `first`: this is a part of a fetch, the blocks from that one on; those
    before it come from elsewhere. None: all blocks of the tokens are wanted.
    """

    tokens: Annotated[bytes, msgspec.Meta(max_length=MAX_BYTES)]
    namespace: Name
    cookie: Cookie
    from_engine: bool = False
    first: Unsigned | None = None


class FetchEnded(msgspec.Struct, tag="fetch ends", frozen=True):
    """Nothing comes of the fetch of that cookie, though its owner had asked its engine."""

    cookie: Cookie


class FetchReply(msgspec.Struct, tag="comes", frozen=True):
    """So many blocks of the tokens, from the first that is wanted on, are published at the owner, and sent.

    `later`: the owner's engine is asked first; there may be more then, or none.
    """

    blocks: Unsigned
    later: bool = False


class Allocated(msgspec.Struct, tag="allocated", frozen=True):
    incarnation: Unsigned
    blocks: PackedBlocks


class Done(msgspec.Struct, tag="done", frozen=True):
    pass


class Admitted(msgspec.Struct, tag="admitted", frozen=True):
    """The first `present` of the offered blocks are published there already and are not to be sent.

    `engine_owned`: the owner's engine finds them places of its own; `blocks` is empty then. `key`: what the
    blocks are to be encrypted with; None: they come in clear.
    """

    incarnation: Unsigned
    blocks: PackedBlocks
    ticket: Unsigned
    present: Unsigned
    engine_owned: bool = False
    key: TicketKey | None = None


class Failed(msgspec.Struct, tag="failed", frozen=True):
    """`kind`: the name of a MemPoolError."""

    kind: Name
    medium: Medium
    incarnation: Unsigned
    cause: Reason


ControlRequest = AllocMem | FreeMem | Offer | FetchRequest | FetchEnded
ControlReply = Allocated | Done | Admitted | FetchReply | Failed
R = TypeVar("R", Allocated, Done, Admitted, FetchReply)


class Caller(msgspec.Struct, frozen=True):
    instance: Name
    incarnation: Unsigned


class Call(msgspec.Struct, frozen=True):
    """`timeout_s`: what is left of the caller's deadline."""

    id: Unsigned
    caller: Caller
    timeout_s: Annotated[float, msgspec.Meta(gt=0, le=MAX_TIMEOUT_S)]
    request: ControlRequest


class CallReply(msgspec.Struct, frozen=True):
    id: Unsigned
    reply: ControlReply


encode = msgspec.msgpack.Encoder().encode
_requests = msgspec.msgpack.Decoder(ControlRequest)
_calls = msgspec.msgpack.Decoder(Call)
_replies = msgspec.msgpack.Decoder(CallReply)


def decode_call(frame: bytes | memoryview) -> Call:
    """Raises FrameError."""
    call: Call = decode_bounded(_calls, frame)
    return call


def decode_reply(frame: bytes | memoryview) -> CallReply:
    """Raises FrameError."""
    answer: CallReply = decode_bounded(_replies, frame)
    return answer


def namespace_digest(namespace: Mapping[str, str]) -> bytes:
    """One digest of all that an instance publishes of what its blocks mean; b"" where that is nothing."""
    return hashlib.blake2b(encode(sorted(namespace.items())), digest_size=16).digest() if namespace else b""


def require_pin(pin_s: float, published: bool) -> None:
    """Raises ValueError for a pin that no receiver grants."""
    if not 0 <= pin_s <= MAX_TIMEOUT_S:
        raise ValueError(f"a pin lasts 0 to {MAX_TIMEOUT_S:g} s, not {pin_s} s")
    if pin_s and not published:
        raise ValueError(
            "only what is published is pinned: blocks sent without tokens are held for the sender"
        )


def require_fit(request: ControlRequest, private: bytes = b"") -> None:
    """Raises ValueError for what the other side would not take: it answers no bad frame."""
    frame = encode(request)
    if len(frame) > MAX_BYTES - 1024:
        raise ValueError(f"{len(frame)} bytes of tokens and blocks, a message has at most {MAX_BYTES}")
    if len(private) > MAX_COOKIE_BYTES:
        raise ValueError(f"{len(private)} bytes of cookie, at most {MAX_COOKIE_BYTES} are allowed")
    try:
        _requests.decode(frame)
    except msgspec.ValidationError as error:
        raise ValueError(f"{type(request).__name__}: {error}") from None


def pack(blocks: BlockNumbers) -> bytes:
    return blocks.astype("<i4", copy=False).tobytes()


def unpack(packed: bytes) -> BlockNumbers:
    """Raises FrameError."""
    if len(packed) % 4:
        raise FrameError(f"{len(packed)} bytes are no list of block numbers")
    return np.frombuffer(packed, dtype="<i4").astype(np.int32)


def expect(reply: ControlReply, kind: type[R], instance: str) -> R:
    """The reply, if it is of that kind. Raises the other side's error, or Refused."""
    if isinstance(reply, kind):
        return reply
    if not isinstance(reply, Failed):
        raise Refused(instance, f"answered with {type(reply).__name__}")
    owner = Owner(instance, reply.incarnation, reply.medium)
    for error in (OutOfBlocks, BadAddress, StaleAddress):
        if reply.kind == error.__name__:
            raise error(owner, reply.cause)
    raise Refused(instance, reply.cause)
