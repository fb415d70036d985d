"""A tenant's answer on its way to the client: with the client's own names, and its tokens counted."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from typing import Any

import orjson

from router.errors import Failure
from router.protocol import sse
from router.protocol.answer import UpstreamAnswer

_MARK = b'"completion_tokens"'
# To parse a larger answer would hold up the event loop.
_MAX_BYTES = 1 << 20
_BYTES_PER_TOKEN = 4


class TenantAnswer:
    """`tokens`: how many the answer has had so far; call `of` once.

    A stream that does not report them is counted by its events.
    """

    def __init__(self, tag: str) -> None:
        self._tag = tag.encode()
        self._held = b""
        self._events = sse.EventBuffer()
        self._seen = 0
        self._reported = 0

    @property
    def tokens(self) -> int:
        return max(self._reported, self._seen)

    def of(self, answer: UpstreamAnswer) -> UpstreamAnswer:
        """The same answer, without the tag in it."""
        if answer.rest is None:
            if answer.status < 400:
                self._reported = generated_tokens(answer.body)
            return replace(answer, body=answer.body.replace(self._tag, b""))
        return replace(answer, body=self._next(answer.body), rest=self._rest(answer.rest))

    async def _rest(self, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        try:
            async for chunk in chunks:
                if piece := self._next(chunk):
                    yield piece
        except Failure as failure:
            # It ends the stream that the client gets.
            failure.body = failure.body.replace(self._tag, b"")
            raise
        if self._held:
            yield self._held

    def _next(self, chunk: bytes) -> bytes:
        for event in self._events.feed(chunk):
            self._seen += event != sse.DONE.removesuffix(sse.END)
            if _MARK in event:
                self._reported = max(self._reported, generated_tokens(event.removeprefix(sse.DATA)))
        text = (self._held + chunk).replace(self._tag, b"")
        shown = len(text) - _begun(text, self._tag)
        self._held = text[shown:]
        return text[:shown]


def generated_tokens(raw: bytes) -> int:
    """As a whole answer, or an event, reports them; guessed from the size of a very large one."""
    if _MARK not in raw:
        return 0
    if len(raw) > _MAX_BYTES:
        return len(raw) // _BYTES_PER_TOKEN
    try:
        value = orjson.loads(raw)
    except ValueError:
        return 0
    return sum(_counts(value if isinstance(value, list) else [value]))


def _counts(parts: list[Any]) -> Iterator[int]:
    for part in parts:
        holders = (part.get("meta_info"), part.get("usage")) if isinstance(part, dict) else ()
        counts = (holder.get("completion_tokens") for holder in holders if isinstance(holder, dict))
        yield next((count for count in counts if isinstance(count, int) and count > 0), 0)


def _begun(text: bytes, tag: bytes) -> int:
    """How many bytes at the end of `text` may be the beginning of `tag`, cut in two."""
    if text[-1:] not in tag:
        return 0
    return next((size for size in range(min(len(tag), len(text)), 0, -1) if text.endswith(tag[:size])), 0)
