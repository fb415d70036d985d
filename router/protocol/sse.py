"""Server-sent events, as far as SGLang's streams need them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson

CONTENT_TYPE = "text/event-stream"
DATA = b"data: "
END = b"\n\n"
DONE = DATA + b"[DONE]" + END


class EventBuffer:
    """Cuts a stream into whole events. `dropped`: an event of more than `limit` bytes was dropped unread."""

    def __init__(self, limit: int = 1 << 20) -> None:
        self.dropped = False
        self._limit = limit
        self._rest = bytearray()

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        # An event of many chunks must not be searched again with each chunk.
        searched = max(0, len(self._rest) - len(END) + 1)
        self._rest += chunk
        if self._rest.find(END, searched) >= 0:
            *events, rest = bytes(self._rest).split(END)
            self._rest = bytearray(rest)
            yield from events
        if len(self._rest) > self._limit:
            self._rest.clear()
            self.dropped = True


def failure_in(event: bytes) -> int | None:
    """The status with which SGLang ends a request in this event: an error, or an abort as finish reason.

    0 if the event has no status, as after an abort by name. None for any other event.
    """
    if b'"error"' not in event and b'"abort"' not in event:
        return None
    try:
        if event.startswith(b"event: "):
            event = event.partition(b"\n")[2]
        value = orjson.loads(event.removeprefix(DATA))
        if (error := value.get("error")) is not None:
            return _status(error.get("code")) if isinstance(error, dict) else 0
        reason = value["meta_info"]["finish_reason"]
        return _status(reason.get("status_code")) if reason["type"] == "abort" else None
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def _status(code: Any) -> int:
    return code if isinstance(code, int) else 0


def closing(error_body: bytes, *, mid_event: bool) -> bytes:
    """The bytes that end a stream which cannot go on. An event cut in the middle is closed first."""
    return (END if mid_event else b"") + DATA + error_body + END + DONE


def ends_event(chunk: bytes) -> bool:
    return chunk.endswith(END)
