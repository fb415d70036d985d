"""The usage that an answer reports: tokens of the prompt, tokens cached, and the answer's ids."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from typing import Any

import orjson

from router.protocol import sse
from router.protocol.answer import UpstreamAnswer

_MARK = b'"prompt_tokens"'
# To parse a larger answer would hold up the event loop.
_MAX_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class ReportedUsage:
    """None, and no `output_ids`, where the answer does not report it."""

    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    output_ids: tuple[int, ...] = ()
    completion_tokens: int | None = None


def watched(answer: UpstreamAnswer, on_end: Callable[[ReportedUsage], None]) -> UpstreamAnswer:
    """The same answer; `on_end` is called when it has come to its end."""
    if answer.rest is None:
        on_end(usage_of(answer.body))
        return answer
    return replace(answer, rest=_watched(answer.body, answer.rest, on_end))


async def _watched(
    first: bytes, rest: AsyncIterator[bytes], on_end: Callable[[ReportedUsage], None]
) -> AsyncIterator[bytes]:
    # The last event with usage has all of it.
    events, last = sse.EventBuffer(), b""
    for event in events.feed(first):
        last = event if _MARK in event else last
    async for chunk in rest:
        for event in events.feed(chunk):
            last = event if _MARK in event else last
        yield chunk
    on_end(usage_of(last.removeprefix(sse.DATA)))


def usage_of(raw: bytes) -> ReportedUsage:
    """From a whole answer, or the data of an event, in SGLang's form or OpenAI's."""
    if len(raw) > _MAX_BYTES or _MARK not in raw:
        return ReportedUsage()
    try:
        value = orjson.loads(raw)
    except ValueError:
        return ReportedUsage()
    if not isinstance(value, dict):
        return ReportedUsage()
    meta, usage = value.get("meta_info"), value.get("usage")
    if isinstance(meta, dict):
        return ReportedUsage(
            _count(meta.get("prompt_tokens")),
            _count(meta.get("cached_tokens")),
            _ids(value, meta),
            _count(meta.get("completion_tokens")),
        )
    if isinstance(usage, dict):
        details = usage.get("prompt_tokens_details")
        cached = details.get("cached_tokens") if isinstance(details, dict) else None
        completion = _count(usage.get("completion_tokens"))
        return ReportedUsage(_count(usage.get("prompt_tokens")), _count(cached), completion_tokens=completion)
    return ReportedUsage()


def _ids(value: dict[str, Any], meta: dict[str, Any]) -> tuple[int, ...]:
    """Those of the whole answer; () where an event has only the new ones."""
    ids, count = value.get("output_ids"), meta.get("completion_tokens")
    if not isinstance(ids, list) or (count is not None and count != len(ids)):
        return ()
    return tuple(ids) if all(isinstance(token, int) and 0 <= token < 1 << 31 for token in ids) else ()


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
