"""One turn of a chat through a router: the streamed answer, and what caching did for it."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp
import orjson

from sglang_memserve.cluster import probe
from sglang_memserve.cluster.errors import ClusterError, UsageError

_TURN_S = 120.0


@dataclass(frozen=True)
class Turn:
    """One answer; `ttft` in seconds from sending to the first text; None for what the server did not tell."""

    answer: str
    ttft: float
    prompt_tokens: int | None
    cached_tokens: int | None


def summary(turn: Turn, moved: int | None) -> str:
    """What caching did for a turn; `moved`: bytes of KV that went to decode meanwhile."""

    def shown(value: int | None) -> str:
        return "n/a" if value is None else f"{value:,}"

    kv = "n/a" if moved is None else f"{moved / 1e6:.2f} MB"
    return (
        f"TTFT {turn.ttft:.2f} s | prompt {shown(turn.prompt_tokens)} tokens, {shown(turn.cached_tokens)} "
        f"cached | KV moved from prefill to decode: {kv}"
    )


async def chat_turn(
    session: aiohttp.ClientSession,
    router: str,
    messages: Sequence[dict[str, str]],
    *,
    max_tokens: int,
    temperature: float = 0,
    on_text: Callable[[str], None] = lambda text: None,
) -> Turn:
    """The streamed answer to `messages`; `on_text` gets each piece as it comes.

    Raises ClusterError if there is none, UsageError if the router asks for another key.
    """
    url = f"{router}/v1/chat/completions"
    body = {
        "model": "default",
        "messages": list(messages),
        "temperature": temperature,
        "max_tokens": max_tokens,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    began, ttft = time.monotonic(), None
    parts: list[str] = []
    usage: dict[str, Any] = {}
    try:
        async with session.post(url, json=body, timeout=aiohttp.ClientTimeout(total=_TURN_S)) as response:
            if response.status == 401:
                raise UsageError(f"{url} answers 401: {probe.KEY_HINT}")
            if response.status != 200:
                raise ClusterError(f"{url} answers {response.status}: {(await response.text())[:500]}")
            async for line in response.content:
                chunk = _event(line)
                usage = chunk.get("usage") or usage
                if text := _text(chunk):
                    ttft = ttft or time.monotonic() - began
                    parts.append(text)
                    on_text(text)
    except (aiohttp.ClientError, TimeoutError, ValueError) as error:
        raise ClusterError(f"{url} broke off: {error or type(error).__name__}") from error
    if ttft is None:
        raise ClusterError(f"{url} gave no text")
    details = usage.get("prompt_tokens_details") or {}
    return Turn("".join(parts), ttft, usage.get("prompt_tokens"), details.get("cached_tokens"))


def _event(line: bytes) -> dict[str, Any]:
    """The object in a line of an event stream; empty for other lines. Raises ClusterError for an error."""
    data = line.removeprefix(b"data:").strip()
    if not line.startswith(b"data:") or data == b"[DONE]":
        return {}
    chunk: dict[str, Any] = orjson.loads(data)
    if error := chunk.get("error"):
        raise ClusterError(f"the answer broke off: {error}")
    return chunk


def _text(chunk: dict[str, Any]) -> str:
    choices = chunk.get("choices") or [{}]
    return str((choices[0].get("delta") or {}).get("content") or "")


async def kv_bytes_received(session: aiohttp.ClientSession, router: str) -> int | None:
    """Bytes of KV that decode instances have received since their start; None if they do not count them."""
    try:
        decode = (await probe.ask(session, f"{router}/server_info"))["decode"]
        states = [state for instance in decode for state in instance["internal_states"]]
        return sum(int(state["memserve"]["kv_bytes_received"]) for state in states) if states else None
    except (ClusterError, KeyError, TypeError):
        return None
