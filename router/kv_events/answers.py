"""The answers of `mempool.feed.messages` as they are wanted here: events one by one.

Decoding a snapshot would hold the event loop for as long as all of it takes, in a thread too: the decoder
keeps the interpreter's lock. So an answer is taken apart first, at half a microsecond an event, and each of
these is decoded when its turn comes.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from mempool.errors import FrameError
from mempool.feed.messages import MAX_EVENTS, MAX_REPLY_BYTES, Unknown
from mempool.index.events import AnyEvent, Stored
from mempool.wire import Unsigned, decode_bounded


class EventBatch(msgspec.Struct, tag="event_batch", frozen=True):
    number: Unsigned
    incarnation: Unsigned
    events: Annotated[list[msgspec.Raw], msgspec.Meta(max_length=MAX_EVENTS)]


class Contents(msgspec.Struct, tag="Snapshot", frozen=True):
    seq: Unsigned
    page_size: int
    stored: list[msgspec.Raw]


class SnapshotReply(msgspec.Struct, tag="snapshot_reply", frozen=True):
    number: Unsigned
    incarnation: Unsigned
    snapshot: Contents


Answer = EventBatch | SnapshotReply | Unknown

_WHOSE = "a feed"
_answer = msgspec.msgpack.Decoder(Answer)
_event = msgspec.msgpack.Decoder(AnyEvent)
_stored = msgspec.msgpack.Decoder(Stored)


def decode_answer(frame: bytes | memoryview) -> Answer:
    """Raises FrameError. The answer's events are part of `frame` still."""
    if len(frame) > MAX_REPLY_BYTES:
        raise FrameError(f"an answer of {len(frame)} bytes, at most {MAX_REPLY_BYTES} are allowed")
    answer: Answer = decode_bounded(_answer, frame, _WHOSE)
    return answer


def decode_event(raw: msgspec.Raw) -> AnyEvent:
    """Raises FrameError."""
    event: AnyEvent = decode_bounded(_event, raw, _WHOSE)
    return event


def decode_stored(raw: msgspec.Raw) -> Stored:
    """Raises FrameError."""
    stored: Stored = decode_bounded(_stored, raw, _WHOSE)
    return stored
