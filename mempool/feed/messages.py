"""Messages between a feed and its followers: typed msgpack, one frame each. Imports no torch.

follower to feed      feed to follower
----------------      ----------------
FeedRequest           EventBatch, SnapshotReply or Unknown

A follower names the last event that it has, and asks for those that came after. So no event is lost, doubled
or out of order, and a feed keeps nothing about its followers. A follower repeats a request without a reply.
"""

from typing import Annotated, Any

import msgspec

from mempool.address import Medium
from mempool.errors import FrameError
from mempool.index.events import AnyEvent, Snapshot
from mempool.wire import Reason, Unsigned, decode_bounded

MAX_REQUEST_BYTES = 4096
# A snapshot has some 70 bytes a block: of three million blocks.
MAX_REPLY_BYTES = 256 << 20
MAX_EVENTS = 4096
# The names of its fields alone make an entry longer than this many bytes.
MAX_RUNS = MAX_REPLY_BYTES // 64


class FeedRequest(msgspec.Struct, tag="feed_request", frozen=True):
    """Asks for what came after event `seq` of `incarnation`; -1 asks for everything, as a snapshot.

    A reply without events may be up to `wait` seconds late. `number` comes back with the reply.
    """

    number: Unsigned
    medium: Medium
    incarnation: Unsigned
    seq: Annotated[int, msgspec.Meta(ge=-1)]
    wait: Annotated[float, msgspec.Meta(ge=0, le=60)] = 1.0


class EventBatch(msgspec.Struct, tag="event_batch", frozen=True):
    """The events that followed, at most MAX_EVENTS of them; none: nothing has happened."""

    number: Unsigned
    incarnation: Unsigned
    events: Annotated[list[AnyEvent], msgspec.Meta(max_length=MAX_EVENTS)]


class SnapshotReply(msgspec.Struct, tag="snapshot_reply", frozen=True):
    """Everything. The request named another incarnation, or an event older than the feed remembers."""

    number: Unsigned
    incarnation: Unsigned
    snapshot: Snapshot


class Unknown(msgspec.Struct, tag="unknown", frozen=True):
    """There is no such feed here."""

    number: Unsigned
    reason: Reason


FeedReply = EventBatch | SnapshotReply | Unknown

encode = msgspec.msgpack.Encoder().encode
_requests = msgspec.msgpack.Decoder(FeedRequest)
_replies = msgspec.msgpack.Decoder(FeedReply)


def decode_request(frame: bytes | memoryview) -> FeedRequest:
    """Raises FrameError."""
    request: FeedRequest = _decode(_requests, frame, MAX_REQUEST_BYTES)
    return request


def decode_reply(frame: bytes | memoryview) -> FeedReply:
    """Raises FrameError."""
    reply: FeedReply = _decode(_replies, frame, MAX_REPLY_BYTES)
    return reply


def _decode(decoder: msgspec.msgpack.Decoder[Any], frame: bytes | memoryview, limit: int) -> Any:
    if len(frame) > limit:
        raise FrameError(f"a message of {len(frame)} bytes, at most {limit} are allowed")
    return decode_bounded(decoder, frame, "a feed")
