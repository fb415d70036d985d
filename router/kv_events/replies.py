"""The replies of `mempool.feed.messages`, with their events not decoded yet.

Decoding a whole snapshot would hold up the event loop, from a thread too: the decoder keeps the interpreter's
lock. So a reply is taken apart first, at half a microsecond an event, and each event is decoded later.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from mempool.errors import FrameError
from mempool.feed.messages import MAX_EVENTS, MAX_REPLY_BYTES, MAX_RUNS, Unknown
from mempool.index.events import AnyEvent, Stored
from mempool.wire import Unsigned, decode_bounded


class RawEventBatch(msgspec.Struct, tag="event_batch", frozen=True):
    """`mempool.feed.messages.EventBatch`, with its events not decoded."""

    number: Unsigned
    incarnation: Unsigned
    events: Annotated[list[msgspec.Raw], msgspec.Meta(max_length=MAX_EVENTS)]


class RawSnapshot(msgspec.Struct, tag="Snapshot", frozen=True):
    """A snapshot of an index, with its runs not decoded. `page_size` in tokens."""

    seq: Unsigned
    page_size: int
    stored: Annotated[list[msgspec.Raw], msgspec.Meta(max_length=MAX_RUNS)]


class RawSnapshotReply(msgspec.Struct, tag="snapshot_reply", frozen=True):
    """`mempool.feed.messages.SnapshotReply`, with its runs not decoded."""

    number: Unsigned
    incarnation: Unsigned
    snapshot: RawSnapshot


FeedReply = RawEventBatch | RawSnapshotReply | Unknown

_WHOSE = "a feed"
_reply = msgspec.msgpack.Decoder(FeedReply)
_event = msgspec.msgpack.Decoder(AnyEvent)
_stored = msgspec.msgpack.Decoder(Stored)


def decode_reply(frame: bytes | memoryview) -> FeedReply:
    """Raises FrameError. The events of the reply still point into `frame`."""
    if len(frame) > MAX_REPLY_BYTES:
        raise FrameError(f"an answer of {len(frame)} bytes, at most {MAX_REPLY_BYTES} are allowed")
    reply: FeedReply = decode_bounded(_reply, frame, _WHOSE)
    return reply


def decode_event(raw: msgspec.Raw) -> AnyEvent:
    """Raises FrameError."""
    event: AnyEvent = decode_bounded(_event, raw, _WHOSE)
    return event


def decode_stored(raw: msgspec.Raw) -> Stored:
    """Raises FrameError."""
    stored: Stored = decode_bounded(_stored, raw, _WHOSE)
    return stored
