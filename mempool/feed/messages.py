"""Messages between a feed and who follows it: typed msgpack, one frame each. Imports no torch.

follower to feed      feed to follower
----------------      ----------------
Ask                   Told, or Whole, or Unknown

A follower says what it has and asks for what came after: so nothing can be lost, doubled or out of order, and
a feed keeps nothing about its followers. An answer that does not come is asked for again.
"""

from typing import Annotated, Any

import msgspec

from mempool.address import Medium
from mempool.errors import FrameError
from mempool.index.events import AnyEvent, Snapshot
from mempool.wire import Reason, Unsigned, decode_bounded

MAX_REQUEST_BYTES = 4096
# A snapshot has some 70 bytes a block: of three million blocks.
MAX_ANSWER_BYTES = 256 << 20
MAX_EVENTS = 4096


class FeedRequest(msgspec.Struct, tag="ask", frozen=True):
    """What came after event `seq` of `incarnation`; -1: everything, as a snapshot. An answer without events
    may be up to `wait` seconds late. `number` comes back with the answer.
    """

    number: Unsigned
    medium: Medium
    incarnation: Unsigned
    seq: Annotated[int, msgspec.Meta(ge=-1)]
    wait: Annotated[float, msgspec.Meta(ge=0, le=60)] = 1.0


class EventBatch(msgspec.Struct, tag="told", frozen=True):
    """The events that followed, at most MAX_EVENTS of them; none: nothing has happened."""

    number: Unsigned
    incarnation: Unsigned
    events: list[AnyEvent]


class SnapshotReply(msgspec.Struct, tag="whole", frozen=True):
    """Everything: another incarnation, or longer ago than the feed remembers."""

    number: Unsigned
    incarnation: Unsigned
    snapshot: Snapshot


class Unknown(msgspec.Struct, tag="unknown", frozen=True):
    """There is no such feed here."""

    number: Unsigned
    reason: Reason


Answer = EventBatch | SnapshotReply | Unknown

encode = msgspec.msgpack.Encoder().encode
_ask = msgspec.msgpack.Decoder(FeedRequest)
_answer = msgspec.msgpack.Decoder(Answer)


def decode_request(frame: bytes | memoryview) -> FeedRequest:
    """Raises FrameError."""
    ask: FeedRequest = _decode(_ask, frame, MAX_REQUEST_BYTES)
    return ask


def decode_answer(frame: bytes | memoryview) -> Answer:
    """Raises FrameError."""
    answer: Answer = _decode(_answer, frame, MAX_ANSWER_BYTES)
    return answer


def _decode(decoder: msgspec.msgpack.Decoder[Any], frame: bytes | memoryview, limit: int) -> Any:
    if len(frame) > limit:
        raise FrameError(f"a message of {len(frame)} bytes, at most {limit} are allowed")
    return decode_bounded(decoder, frame, "a feed")
