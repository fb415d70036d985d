"""A server that answers as SGLang does, with known tokens after known delays, to check the client against.

`python -m benchmark.mock_engine --port P --first-ms F --gap-ms G`
"""

import argparse
import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import orjson
import uvloop

from benchmark import http_wire
from benchmark.http_wire import Reader, WireError

Event = dict[str, Any]
DELAY = "mock_delay"


@dataclass
class MockEngine:
    """Sends an answer's first token after `first_s` seconds, each further one `gap_s` later.

    Token n of an answer is the prompt's length plus n (in characters, of a text), so that an answer shows
    which prompt it was given to; half of the prompt is reported as cached. Each event has, under DELAY, the
    seconds after which it was really sent. `bodies` holds what was asked. `fails` maps the number of a
    request (from 0) to a status; 200 breaks off after the first token. `pages`: what else there is to GET or
    POST, by path; the number of calls goes into `calls`. `url` is for whoever serves it to set.
    """

    first_s: float = 0.0
    gap_s: float = 0.0
    fails: dict[int, int] = field(default_factory=dict)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    pages: dict[str, bytes] = field(default_factory=lambda: {"/health": b"", "/flush_cache": b""})
    calls: dict[str, int] = field(default_factory=dict)
    url: str = ""

    async def serve(self, host: str, port: int) -> asyncio.Server:
        """A server that listens; closing it is the caller's."""
        return await asyncio.get_running_loop().create_server(lambda: _EngineConnection(self), host, port)

    def page(self, path: str) -> bytes | None:
        self.calls[path] = self.calls.get(path, 0) + 1
        return self.pages.get(path)


class _EngineConnection(asyncio.Protocol):
    """Answers one request after the other."""

    def __init__(self, engine: MockEngine) -> None:
        self._engine = engine
        self._reader = Reader()
        self._streaming: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)

    def connection_lost(self, _: Exception | None) -> None:
        if self._streaming:
            self._streaming.cancel()

    def data_received(self, data: bytes) -> None:
        try:
            self._reader.feed(data)
        except (WireError, ValueError):
            self._transport.close()
            return
        if self._reader.complete:
            body, path = self._reader.body, self._reader.head.split(b" ", 2)[1].decode()
            self._reader = Reader()
            self._answer(path, body)

    def _answer(self, path: str, body: bytes) -> None:
        if path not in _ANSWERS:
            page = self._engine.page(path)
            self._transport.write(http_wire.response(404 if page is None else 200, page or b""))
            return
        number, asked = len(self._engine.bodies), orjson.loads(body)
        self._engine.bodies.append(asked)
        status = self._engine.fails.get(number)
        if status and status != 200:
            self._transport.write(http_wire.response(status, b'{"error": {"message": "meant to fail"}}'))
            return
        self._transport.write(http_wire.STREAM_HEAD)
        self._streaming = asyncio.create_task(self._stream(*_ANSWERS[path](asked), breaks=bool(status)))

    async def _stream(
        self, first: Event | None, tokens: list[Event], last: Event | None, breaks: bool
    ) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        if first:
            self._send(first)
        for number, event in enumerate(tokens):
            await asyncio.sleep(began + self._engine.first_s + number * self._engine.gap_s - loop.time())
            self._send(event | {DELAY: loop.time() - began})
            if breaks:
                self._transport.close()
                return
        if last:
            self._send(last)
        self._transport.write(http_wire.chunk(b"data: [DONE]\n\n") + http_wire.STREAM_END)

    def _send(self, event: Event) -> None:
        self._transport.write(http_wire.chunk(b"data: " + orjson.dumps(event) + b"\n\n"))


Stream = tuple[Event | None, list[Event], Event | None]
"""What comes at once, the tokens, and what follows them."""


def _generate(asked: dict[str, Any]) -> Stream:
    prompt = len(asked.get("input_ids") or asked["text"])
    count = asked["sampling_params"]["max_new_tokens"]
    ids = [prompt + n for n in range(count)]
    meta = {"prompt_tokens": prompt, "cached_tokens": prompt // 2}
    ends = [None] * (count - 1) + [{"type": "length", "length": count}]
    tokens = [
        {
            "text": "".join(f" {token}" for token in ids[:n]),
            "output_ids": ids[:n],
            "meta_info": meta | {"completion_tokens": n, "finish_reason": end},
        }
        for n, end in enumerate(ends, 1)
    ]
    return None, tokens, None


def _completions(asked: dict[str, Any]) -> Stream:
    prompt, count = len(asked["prompt"]), asked["max_tokens"]
    return None, _chosen([{"text": f" {prompt + n}"} for n in range(count)]), _usage(prompt, count)


def _chat(asked: dict[str, Any]) -> Stream:
    prompt, count = sum(len(message["content"]) for message in asked["messages"]), asked["max_tokens"]
    role = {"choices": [{"delta": {"role": "assistant", "content": ""}}]}
    said = [{"delta": {"content": f" {prompt + n}"}} for n in range(count)]
    return role, _chosen(said), _usage(prompt, count)


_ANSWERS = {"/generate": _generate, "/v1/completions": _completions, "/v1/chat/completions": _chat}


def _chosen(choices: list[Event]) -> list[Event]:
    ends = [None] * (len(choices) - 1) + ["length"]
    return [{"choices": [choice | {"finish_reason": end}]} for choice, end in zip(choices, ends, strict=True)]


def _usage(prompt: int, tokens: int) -> Event:
    details = {"cached_tokens": prompt // 2}
    usage = {"prompt_tokens": prompt, "completion_tokens": tokens, "prompt_tokens_details": details}
    return {"choices": [], "usage": usage}


async def _forever(engine: MockEngine, host: str, port: int) -> None:
    async with await engine.serve(host, port) as server:
        await server.serve_forever()


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--first-ms", type=float, default=50.0, help="to the first token (default: 50)")
    parser.add_argument("--gap-ms", type=float, default=10.0, help="between two tokens (default: 10)")
    options = parser.parse_args(argv)
    engine = MockEngine(options.first_ms / 1e3, options.gap_ms / 1e3)
    uvloop.run(_forever(engine, options.host, options.port))


if __name__ == "__main__":
    main()
