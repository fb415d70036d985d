"""What an answer says of its own request: the prompt's tokens, those cached, and what came."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from typing import Any

import orjson

from router.protocol import sse
from router.protocol.answer import Answer

_TELLING = b'"prompt_tokens"'
# Reading a larger answer would hold up everybody.
_MOST_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Outcome:
    """None, and no `output_ids`, where the answer does not tell."""

    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    output_ids: tuple[int, ...] = ()
    completion_tokens: int | None = None


def watched(answer: Answer, told: Callable[[Outcome], None]) -> Answer:
    """The same answer; `told` is called once it has come to its end."""
    if answer.rest is None:
        told(outcome_of(answer.body))
        return answer
    return replace(answer, rest=_watched(answer.body, answer.rest, told))


async def _watched(
    first: bytes, rest: AsyncIterator[bytes], told: Callable[[Outcome], None]
) -> AsyncIterator[bytes]:
    # The last event that tells is the one that tells all.
    events, last = sse.EventBuffer(), b""
    for event in events.feed(first):
        last = event if _TELLING in event else last
    async for chunk in rest:
        for event in events.feed(chunk):
            last = event if _TELLING in event else last
        yield chunk
    told(outcome_of(last.removeprefix(sse.DATA)))


def outcome_of(raw: bytes) -> Outcome:
    """Of a whole answer, or an event's data, in SGLang's form or OpenAI's."""
    if len(raw) > _MOST_BYTES or _TELLING not in raw:
        return Outcome()
    try:
        value = orjson.loads(raw)
    except ValueError:
        return Outcome()
    if not isinstance(value, dict):
        return Outcome()
    meta, usage = value.get("meta_info"), value.get("usage")
    if isinstance(meta, dict):
        return Outcome(
            _count(meta.get("prompt_tokens")),
            _count(meta.get("cached_tokens")),
            _ids(value, meta),
            _count(meta.get("completion_tokens")),
        )
    if isinstance(usage, dict):
        details = usage.get("prompt_tokens_details")
        cached = details.get("cached_tokens") if isinstance(details, dict) else None
        completion = _count(usage.get("completion_tokens"))
        return Outcome(_count(usage.get("prompt_tokens")), _count(cached), completion_tokens=completion)
    return Outcome()


def _ids(value: dict[str, Any], meta: dict[str, Any]) -> tuple[int, ...]:
    """Those of the whole answer; an instance may be told to stream only what is new."""
    ids, count = value.get("output_ids"), meta.get("completion_tokens")
    if not isinstance(ids, list) or (count is not None and count != len(ids)):
        return ()
    return tuple(ids) if all(isinstance(one, int) and 0 <= one < 1 << 31 for one in ids) else ()


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
