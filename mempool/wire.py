"""Messages of the block channel: typed msgpack, one ZeroMQ frame each. Imports no torch.

sender to receiver          receiver to sender
------------------          ------------------
Blocks + payload frame      Ack
Finish                      Ack
Fail                        Refuse

A ticket is the receiver's name for one transfer that it expects: a number that nobody can guess, valid
once. The receiver keeps the destination pages, and the wire names positions in that list only, so a late
or forged frame cannot reach a page that its transfer does not own.
"""

from typing import Annotated, Any

import msgspec

from mempool.errors import FrameError

MAX_HEADER_BYTES = 256 * 1024
# Blocks of one message. A block that is larger than this travels alone.
MAX_PIECE_BYTES = 16 * 1024 * 1024

Unsigned = Annotated[int, msgspec.Meta(ge=0)]
Reason = Annotated[str, msgspec.Meta(max_length=2048)]


class Blocks(msgspec.Struct, tag="blocks", frozen=True):
    """`count` blocks, to go to positions `first` and on of the ticket's pages."""

    ticket: Unsigned
    seq: Unsigned
    first: Unsigned
    count: Annotated[int, msgspec.Meta(ge=1)]


class Finish(msgspec.Struct, tag="finish", frozen=True):
    """All `total` blocks are sent. `private`: the caller's cookie, handed over on completion."""

    ticket: Unsigned
    seq: Unsigned
    total: Unsigned
    private: bytes = b""


class Fail(msgspec.Struct, tag="fail", frozen=True):
    """The sender gives the transfer up."""

    ticket: Unsigned
    reason: Reason


class Ack(msgspec.Struct, tag="ack", frozen=True):
    """The message `seq` is applied: its bytes are in the receiver's pool."""

    ticket: Unsigned
    seq: Unsigned


class Refuse(msgspec.Struct, tag="refuse", frozen=True):
    """The receiver knows no such ticket, or the message does not fit it."""

    ticket: Unsigned
    seq: Unsigned
    reason: Reason


ToReceiver = Blocks | Finish | Fail
ToSender = Ack | Refuse

encode = msgspec.msgpack.Encoder().encode
_to_receiver = msgspec.msgpack.Decoder(ToReceiver)
_to_sender = msgspec.msgpack.Decoder(ToSender)


def decode_to_receiver(frame: bytes | memoryview) -> ToReceiver:
    """Raises FrameError."""
    message: ToReceiver = decode(_to_receiver, frame)
    return message


def decode_to_sender(frame: bytes | memoryview) -> ToSender:
    """Raises FrameError."""
    message: ToSender = decode(_to_sender, frame)
    return message


def decode(decoder: msgspec.msgpack.Decoder[Any], frame: bytes | memoryview) -> Any:
    """What `decoder` makes of a frame from the network. Raises FrameError."""
    if len(frame) > MAX_HEADER_BYTES:
        raise FrameError(f"header of {len(frame)} bytes, at most {MAX_HEADER_BYTES} are allowed")
    try:
        return decoder.decode(frame)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise FrameError(f"not a message of the protocol: {error}") from error


def short(reason: str) -> str:
    """A reason that fits the wire."""
    return reason if len(reason) <= 2048 else reason[:2045] + "..."
