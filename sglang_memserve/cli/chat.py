"""A chat of three turns that shows what caching and the KV transfer did for each."""

import time
from dataclasses import dataclass
from typing import Any

import aiohttp
import orjson

from sglang_memserve.cli.output import show
from sglang_memserve.cluster import probe
from sglang_memserve.cluster.errors import ClusterError

_QUESTIONS = (
    "What is the capital of France?",
    "Name three things that a visitor should see there.",
    "Tell me more about the first one.",
)
_ANSWER_TOKENS = 64
_TURN_S = 120.0


@dataclass(frozen=True)
class Turn:
    """One answer; `ttft` in seconds from sending to the first text; None for what the server did not tell."""

    answer: str
    ttft: float
    prompt_tokens: int | None
    cached_tokens: int | None


async def run_chat(router: str, api_key: str | None = None) -> None:
    """Holds the chat through `router` and prints it. Raises ClusterError if a turn fails."""
    history: list[dict[str, str]] = []
    async with probe.client(api_key) as session:
        for number, question in enumerate(_QUESTIONS, 1):
            history.append({"role": "user", "content": question})
            before = await kv_bytes_received(session, router)
            turn = await chat_turn(session, router, history)
            after = await kv_bytes_received(session, router)
            history.append({"role": "assistant", "content": turn.answer})
            moved = after - before if before is not None and after is not None else None
            show(f"\nTurn {number}: {question}\n  {turn.answer.strip()}\n  {_summary(turn, moved)}")
    show("")


def _summary(turn: Turn, moved: int | None) -> str:
    def shown(value: int | None) -> str:
        return "n/a" if value is None else f"{value:,}"

    kv = "n/a" if moved is None else f"{moved / 1e6:.2f} MB"
    return (
        f"TTFT {turn.ttft:.2f} s | prompt {shown(turn.prompt_tokens)} tokens, {shown(turn.cached_tokens)} "
        f"cached | KV moved from prefill to decode: {kv}"
    )


async def chat_turn(session: aiohttp.ClientSession, router: str, messages: list[dict[str, str]]) -> Turn:
    """The streamed answer to `messages`. Raises ClusterError if there is none."""
    url = f"{router}/v1/chat/completions"
    body = {
        "model": "default",
        "messages": messages,
        "temperature": 0,
        "max_tokens": _ANSWER_TOKENS,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    began, ttft = time.monotonic(), None
    parts: list[str] = []
    usage: dict[str, Any] = {}
    try:
        async with session.post(url, json=body, timeout=aiohttp.ClientTimeout(total=_TURN_S)) as response:
            if response.status != 200:
                raise ClusterError(f"{url} answers {response.status}: {(await response.text())[:500]}")
            async for line in response.content:
                chunk = _event(line)
                usage = chunk.get("usage") or usage
                if text := _text(chunk):
                    ttft = ttft or time.monotonic() - began
                    parts.append(text)
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


def examples(router: str, *, keyed: bool = False) -> str:
    """How to talk to the cluster from a shell and from Python; `keyed` if it asks for MEMSERVE_API_KEY."""
    header = ' -H "Authorization: Bearer $MEMSERVE_API_KEY"' if keyed else ""
    key = 'os.environ["MEMSERVE_API_KEY"]' if keyed else '"none"'
    imports = "import os\n  " if keyed else ""
    return f"""Try it{", with MEMSERVE_API_KEY set" if keyed else ""}:

  curl -N {router}/v1/chat/completions -H 'Content-Type: application/json'{header} -d \\
    '{{"model": "default", "stream": true, "messages": [{{"role": "user", "content": "Who are you?"}}]}}'

  {imports}from openai import OpenAI
  client = OpenAI(base_url="{router}/v1", api_key={key})
  messages = [{{"role": "user", "content": "What is a KV cache?"}}]
  answer = client.chat.completions.create(model="default", messages=messages)
  print(answer.choices[0].message.content)

`memserve status --url {router}` shows the instances. Ctrl-C stops all of them."""
