"""Messages of the block channel: typed msgpack, one header frame each. Imports no torch.

sender to receiver          receiver to sender
------------------          ------------------
Hello                       Welcome, or Bye
Begin                       Ack
Blocks + payload frames     Ack, or Refuse
Finish                      Ack, or Refuse
Fail                        Ack
anything else               Bye

Where the ticket came with a key, all of these but Hello, Welcome and Bye travel as Sealed: encrypted and
authenticated under that key, in both directions. A refusal of a ticket that is not known, or not any more, is
in clear.

Every message but Hello is answered once, in order. A ticket is the receiver's name for one transfer that it
expects: a number that nobody can guess, valid once. The receiver keeps the destination pages, and the wire
names positions in that list only, so a late or forged frame cannot reach a page that its transfer does not
own.
"""

from typing import Annotated, Any

import msgspec

from mempool.errors import FrameError

VERSION = 5
MAX_HEADER_BYTES = 256 * 1024
# What the payload of one message may have. A plane of a block, which is never cut, has to fit.
MAX_PIECE_BYTES = 16 * 1024 * 1024
MAX_PAYLOAD_FRAMES = 1024
# AES-128, and what AES-GCM authenticates with.
KEY_BYTES = 16
TAG_BYTES = 16

Unsigned = Annotated[int, msgspec.Meta(ge=0)]
Positive = Annotated[int, msgspec.Meta(ge=1)]
Reason = Annotated[str, msgspec.Meta(max_length=2048)]
TicketKey = Annotated[bytes, msgspec.Meta(min_length=KEY_BYTES, max_length=KEY_BYTES)]


class ChannelHello(msgspec.Struct, tag="hello", frozen=True):
    """The first message of a connection."""

    version: Unsigned


class Begin(msgspec.Struct, tag="begin", frozen=True):
    """The ticket's blocks will come over this connection: where it ends, so does the transfer."""

    ticket: Unsigned
    seq: Unsigned


class Blocks(msgspec.Struct, tag="blocks", frozen=True):
    """A rectangle of cells: planes `[plane, plane + planes)` of pages `[first, first + count)` of the ticket.

    The payload has the planes of one block after those of the other. It may come in several frames, each of
    whole rows of the rectangle. `again`: some of the cells may have landed before. They hold this in the end.
    """

    ticket: Unsigned
    seq: Unsigned
    first: Unsigned
    count: Positive
    plane: Unsigned
    planes: Positive
    again: bool = False


class Finish(msgspec.Struct, tag="finish", frozen=True):
    """All `total` blocks are sent. `private`: the caller's cookie, handed over on completion."""

    ticket: Unsigned
    seq: Unsigned
    total: Unsigned
    private: bytes = b""


class Fail(msgspec.Struct, tag="fail", frozen=True):
    """The sender gives the transfer up."""

    ticket: Unsigned
    seq: Unsigned
    reason: Reason


class Welcome(msgspec.Struct, tag="welcome", frozen=True):
    """`window_bytes` of payload may be unacknowledged on this connection."""

    version: Unsigned
    window_bytes: Positive


class Ack(msgspec.Struct, tag="ack", frozen=True):
    """The message `seq` is applied: its bytes are in the receiver's blocks."""

    ticket: Unsigned
    seq: Unsigned


class Refuse(msgspec.Struct, tag="refuse", frozen=True):
    """The receiver knows no such ticket, or the message does not fit it."""

    ticket: Unsigned
    seq: Unsigned
    reason: Reason


class Bye(msgspec.Struct, tag="bye", frozen=True):
    """The receiver takes nothing more from this connection."""

    reason: Reason


class Sealed(msgspec.Struct, tag="sealed", frozen=True):
    """Another message, encrypted, in its `box`; `ticket` and `seq` are those of the message.

    `number`: how many messages of the ticket its sender sealed before this one. An answer has that of its
    message.
    `payload_tag`: what the payload, encrypted as well, is authenticated with.
    """

    ticket: Unsigned
    seq: Unsigned
    number: Unsigned
    box: bytes
    payload_tag: Annotated[bytes, msgspec.Meta(max_length=TAG_BYTES)] = b""


OfTicket = Begin | Blocks | Finish | Fail
Answer = Ack | Refuse
ToReceiver = ChannelHello | OfTicket | Sealed
ToSender = Welcome | Answer | Bye | Sealed

encode = msgspec.msgpack.Encoder().encode
_to_receiver = msgspec.msgpack.Decoder(ToReceiver)
_to_sender = msgspec.msgpack.Decoder(ToSender)
_of_ticket = msgspec.msgpack.Decoder(OfTicket)
_answers = msgspec.msgpack.Decoder(Answer)


def decode_to_receiver(frame: bytes | memoryview) -> ToReceiver:
    """Raises FrameError."""
    message: ToReceiver = decode(_to_receiver, frame)
    return message


def decode_to_sender(frame: bytes | memoryview) -> ToSender:
    """Raises FrameError."""
    message: ToSender = decode(_to_sender, frame)
    return message


def decode_of_ticket(opened: bytes) -> OfTicket:
    """What a box to the receiver had. Raises FrameError."""
    message: OfTicket = decode(_of_ticket, opened)
    return message


def decode_answer(opened: bytes) -> Answer:
    """What a box to the sender had. Raises FrameError."""
    answer: Answer = decode(_answers, opened)
    return answer


def decode(decoder: msgspec.msgpack.Decoder[Any], frame: bytes | memoryview) -> Any:
    """What `decoder` makes of a frame from the network. Raises FrameError."""
    if len(frame) > MAX_HEADER_BYTES:
        raise FrameError(f"header of {len(frame)} bytes, at most {MAX_HEADER_BYTES} are allowed")
    return decode_bounded(decoder, frame)


def decode_bounded(
    decoder: msgspec.msgpack.Decoder[Any], data: bytes | memoryview | msgspec.Raw, whose: str = "the protocol"
) -> Any:
    """The same of what is no longer than it may be; `whose` message it should be. Raises FrameError."""
    try:
        return decoder.decode(data)
    except Exception as error:
        # Whatever it is: RecursionError for deep nesting, UnicodeDecodeError, what a type's own check raises.
        raise FrameError(f"not a message of {whose}: {error or type(error).__name__}") from error


def short(reason: str) -> str:
    """A reason that fits the wire."""
    return reason if len(reason) <= 2048 else reason[:2045] + "..."


def other_version(version: int) -> str:
    return f"it speaks version {version} of the block channel, this instance version {VERSION}"
