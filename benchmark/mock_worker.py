"""A server that answers /generate at once with canned text, so that what stands before it is measured.

`python -m benchmark.mock_worker --port P`. It also answers what routers ask of an instance.
"""

import argparse
import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import orjson
import uvloop

from benchmark import http_wire
from benchmark.http_wire import Reader, WireError

_META = {
    "id": "mock",
    "finish_reason": {"type": "length", "length": 16},
    "prompt_tokens": 200,
    "cached_tokens": 0,
}
ANSWER = orjson.dumps({"text": "x" * 600, "output_ids": list(range(64)), "meta_info": _META})
EVENT = b"data: " + orjson.dumps({"text": "y" * 160, "index": 0, "meta_info": _META}) + b"\n\n"
DONE = b"data: [DONE]\n\n"
_INFO = orjson.dumps(
    {"model_path": "mock", "served_model_name": "mock", "is_generation": True, "status": "ready"}
)


@dataclass(frozen=True)
class Pace:
    """A stream's `events`, `gap_s` seconds apart; the first comes at once."""

    events: int
    gap_s: float


class WorkerConnection(asyncio.Protocol):
    """Answers one request after the other. A connection that sends no HTTP is closed."""

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self._reader = Reader()
        self._transport: asyncio.WriteTransport | None = None
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)

    def connection_lost(self, _: Exception | None) -> None:
        if self._timer:
            self._timer.cancel()
        self._transport = None

    def data_received(self, data: bytes) -> None:
        assert self._transport is not None
        try:
            self._reader.feed(data)
        except (WireError, ValueError):
            self._transport.close()
            return
        # While a stream runs, the next request waits in the reader's rest.
        if self._reader.complete and self._timer is None:
            self._answer(self._transport)

    def _answer(self, transport: asyncio.WriteTransport) -> None:
        method, path, version = (*self._reader.head.split(b"\r\n", 1)[0].split(b" "), b"", b"")[:3]
        if version != b"http/1.1":
            transport.close()  # sglang-router tries HTTP/2 on a new worker first
            return
        if method == b"get":
            transport.write(http_wire.response(200, _INFO))
        elif path != b"/generate":
            transport.write(http_wire.response(404, b'{"error": "a mock worker has only /generate"}'))
        elif orjson.loads(self._reader.body).get("stream"):
            transport.write(http_wire.STREAM_HEAD)
            self._stream(transport, self._pace.events)
            return
        else:
            transport.write(http_wire.response(200, ANSWER))
        self._next()

    def _stream(self, transport: asyncio.WriteTransport, left: int) -> None:
        self._timer = None
        if left > 1:
            transport.write(http_wire.chunk(EVENT))
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self._pace.gap_s, self._stream, transport, left - 1)
            return
        transport.write(http_wire.chunk(EVENT) + http_wire.chunk(DONE) + http_wire.STREAM_END)
        self._next()

    def _next(self) -> None:
        rest, self._reader = self._reader.rest, Reader()
        if rest:
            self.data_received(rest)


async def serve(host: str, port: int, pace: Pace) -> asyncio.Server:
    """A server that listens; closing it is the caller's."""
    loop = asyncio.get_running_loop()
    return await loop.create_server(lambda: WorkerConnection(pace), host, port)


async def _forever(host: str, port: int, pace: Pace) -> None:
    async with await serve(host, port, pace) as server:
        await server.serve_forever()


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--events", type=int, default=16, help="events of a stream (default: 16)")
    parser.add_argument("--gap-ms", type=float, default=5.0, help="between two events (default: 5)")
    options = parser.parse_args(argv)
    uvloop.run(_forever(options.host, options.port, Pace(options.events, options.gap_ms / 1e3)))


if __name__ == "__main__":
    main()
