"""Server-sent events, as far as SGLang's streams need them."""

from __future__ import annotations

from collections.abc import Iterator

import orjson

DONE = b"data: [DONE]\n\n"
_END = b"\n\n"


class EventBuffer:
    """Cuts a stream into whole events. An event past `limit` bytes is let go unread."""

    def __init__(self, limit: int = 1 << 20) -> None:
        self._limit = limit
        self._rest = b""

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        *events, self._rest = (self._rest + chunk).split(_END)
        if len(self._rest) > self._limit:
            self._rest = b""
        yield from events


def is_failure(event: bytes) -> bool:
    """Whether SGLang ended a request with this event: an error object, or an abort as finish reason."""
    if b'"error"' not in event and b'"abort"' not in event:
        return False
    try:
        value = orjson.loads(event.removeprefix(b"data: "))
        if value.get("error") is not None:
            return True
        return bool(value["meta_info"]["finish_reason"]["type"] == "abort")
    except (ValueError, KeyError, TypeError, AttributeError):
        return False


def closing(error_body: bytes, *, mid_event: bool) -> bytes:
    """What ends a stream that cannot go on; an event cut in the middle is closed first."""
    return (_END if mid_event else b"") + b"data: " + error_body + _END + DONE


def ends_event(chunk: bytes) -> bool:
    return chunk.endswith(_END)
