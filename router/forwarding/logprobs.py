"""Log-probabilities of the prompt: prefill alone computes them, and they belong into decode's answer.

Requests that do not ask for them never come here.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any, NamedTuple

import orjson

from router.errors import InstanceFailed
from router.protocol import sse
from router.protocol.answer import UpstreamAnswer

Item = dict[str, Any]


class Style(NamedTuple):
    """How an endpoint writes them. `parts` gives those of an answer by their index; `merge` puts prefill's
    part into decode's. `once`: a stream has them in its first event alone, not in each.
    """

    parts: Callable[[Any], list[tuple[int, Item]]]
    merge: Callable[[Item, Item], None]
    once: bool


def style_of(fields: dict[str, Any], path: str) -> Style | None:
    """None if the request asks for nothing that decode does not know itself."""
    if path == "/v1/completions":
        return _COMPLETIONS if fields.get("echo") and fields.get("logprobs") else None
    if path != "/generate" or not _any(fields.get("return_logprob"), bool):
        return None
    params = fields.get("sampling_params")
    asked = (
        _any(fields.get("logprob_start_len"), lambda start: isinstance(start, int) and start >= 0)
        or fields.get("token_ids_logprob")
        or _any(params, lambda sampling: isinstance(sampling, dict) and sampling.get("max_new_tokens") == 0)
    )
    return _GENERATE if asked else None


class PromptLogprobs:
    """Prefill's log-probabilities of one request's prompts; one reader waits for them, decode's answer.

    An event of decode's may have `limit` bytes.
    """

    def __init__(self, style: Style, limit: int) -> None:
        self._style = style
        self._limit = limit
        self._parts: dict[int, Item] = {}
        self._merged: set[int] = set()
        self._news = asyncio.Event()
        self._prefill: asyncio.Task[None] | None = None

    def add(self, raw: bytes) -> None:
        """Prefill's whole answer, or an event of its stream."""
        for index, part in self._style.parts(_load(raw)):
            self._parts.setdefault(index, part)
        self._news.set()

    async def merged(self, answer: UpstreamAnswer, prefill: asyncio.Task[None]) -> UpstreamAnswer:
        """Decode's answer with prefill's part. `prefill` is the task that calls `add`; its failure is raised.

        Raises InstanceFailed if prefill ends without a prompt's part, if the two do not fit together, and for
        too large an event.
        """
        self._prefill = prefill
        prefill.add_done_callback(lambda _: self._news.set())
        if answer.rest is None:
            return replace(answer, body=await self._complete(answer.body))
        events = self._events(answer.body, answer.rest)
        return replace(answer, body=await anext(events, b""), rest=events)

    async def _events(self, first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        buffer = sse.EventBuffer(self._limit)
        async for chunk in _joined(first, rest):
            for event in buffer.feed(chunk):
                yield await self._completed(event)
            if buffer.dropped:
                raise InstanceFailed(f"decode's event is over {self._limit} bytes (--max-payload-size)")

    async def _completed(self, event: bytes) -> bytes:
        if sse.failure_in(event) is not None:
            return event + sse.END
        return sse.DATA + await self._complete(event.removeprefix(sse.DATA)) + sse.END

    async def _complete(self, raw: bytes) -> bytes:
        value = _load(raw)
        if value is None:
            return raw
        for index, part in self._style.parts(value):
            if self._style.once and index in self._merged:
                continue
            prompt = await self._part(index)
            try:
                self._style.merge(prompt, part)
            except (TypeError, KeyError, AttributeError) as error:
                raise InstanceFailed(f"prefill's log-probabilities do not fit decode's: {error!r}") from error
            self._merged.add(index)
        return orjson.dumps(value)

    async def _part(self, index: int) -> Item:
        assert self._prefill is not None
        while index not in self._parts:
            if self._prefill.done():
                self._prefill.result()
                raise InstanceFailed(f"prefill ended without the log-probabilities of prompt {index}")
            self._news.clear()
            await self._news.wait()
        return self._parts[index]


async def _joined(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for chunk in rest:
        yield chunk


def _generated(value: Any) -> list[tuple[int, Item]]:
    parts = list(enumerate(value)) if isinstance(value, list) else [(_index(value), value)]
    return [(i, part) for i, part in parts if isinstance(part, dict) and _finished_well(part)]


def _finished_well(part: Item) -> bool:
    meta = part.get("meta_info")
    finish = meta.get("finish_reason") if isinstance(meta, dict) else {"type": "abort"}
    return not (isinstance(finish, dict) and finish.get("type") == "abort")


def _merge_generated(prefill: Item, decode: Item) -> None:
    prompt, meta = prefill["meta_info"], decode["meta_info"]
    meta.update((name, value) for name, value in prompt.items() if name.startswith("input_"))
    # The first token was sampled on prefill, which hands over all of its log-probabilities but these.
    name = "output_token_ids_logprobs"
    if (chosen := meta.get(name)) and chosen[0] is None and (first := prompt.get(name)):
        chosen[0] = first[0]
    # It is handed over even to a request that wants none.
    if meta.get("completion_tokens") == 0 and "output_token_logprobs" in meta:
        meta["output_token_logprobs"], meta["output_token_logprobs_length"] = [], 0


def _choices(value: Any) -> list[tuple[int, Item]]:
    choices = value.get("choices") if isinstance(value, dict) else None
    return [
        (_index(choice), choice)
        for choice in choices or ()
        if isinstance(choice, dict) and choice.get("logprobs")
    ]


def _merge_completed(prefill: Item, decode: Item) -> None:
    logprobs = decode["logprobs"]
    for name, values in prefill["logprobs"].items():
        # The last is the token that prefill sampled; decode has it too.
        logprobs[name] = values[:-1] + logprobs[name]


_GENERATE = Style(_generated, _merge_generated, once=False)
_COMPLETIONS = Style(_choices, _merge_completed, once=True)


def _index(part: Any) -> int:
    index = part.get("index") if isinstance(part, dict) else None
    return index if isinstance(index, int) else 0


def _any(value: Any, test: Callable[[Any], Any]) -> bool:
    return any(map(test, value)) if isinstance(value, list) else bool(test(value))


def _load(raw: bytes) -> Any:
    try:
        return orjson.loads(raw.removeprefix(sse.DATA))
    except ValueError:
        return None
