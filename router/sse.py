"""Server-sent events, as far as SGLang's streams need them."""

from __future__ import annotations

from collections.abc import Iterator

import orjson

CONTENT_TYPE = "text/event-stream"
DATA = b"data: "
END = b"\n\n"
DONE = DATA + b"[DONE]" + END


class EventBuffer:
    """Cuts a stream into whole events. An event past `limit` bytes is let go unread, and `dropped` tells."""

    def __init__(self, limit: int = 1 << 20) -> None:
        self.dropped = False
        self._limit = limit
        self._rest = bytearray()

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        # An event of many chunks must not be searched again with each.
        searched = max(0, len(self._rest) - len(END) + 1)
        self._rest += chunk
        if self._rest.find(END, searched) >= 0:
            *events, rest = bytes(self._rest).split(END)
            self._rest = bytearray(rest)
            yield from events
        if len(self._rest) > self._limit:
            self._rest.clear()
            self.dropped = True


def is_failure(event: bytes) -> bool:
    """Whether SGLang ended a request with this event: an error object, or an abort as finish reason."""
    if b'"error"' not in event and b'"abort"' not in event:
        return False
    try:
        if event.startswith(b"event: "):
            event = event.partition(b"\n")[2]
        value = orjson.loads(event.removeprefix(DATA))
        if value.get("error") is not None:
            return True
        return bool(value["meta_info"]["finish_reason"]["type"] == "abort")
    except (ValueError, KeyError, TypeError, AttributeError):
        return False


def closing(error_body: bytes, *, mid_event: bool) -> bytes:
    """What ends a stream that cannot go on; an event cut in the middle is closed first."""
    return (END if mid_event else b"") + DATA + error_body + END + DONE


def ends_event(chunk: bytes) -> bool:
    return chunk.endswith(END)
