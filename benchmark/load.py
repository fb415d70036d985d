"""A client that costs little, and the two ways to load a server with it."""

import asyncio
import random
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import cast
from urllib.parse import urlsplit

from benchmark import http_wire
from benchmark.http_wire import Reader, WireError
from sglang_memserve.bench.figures import percentile

_QUICKACK = getattr(socket, "TCP_QUICKACK", None)
_CONNECT_S = 5.0
_ANSWER_S = 60.0


class LoadError(RuntimeError):
    """A request failed: there is nothing to measure. The message has the URL and the answer."""


@dataclass(frozen=True, slots=True)
class RequestTiming:
    """Seconds from the request's write: to the first byte of the answer's body, to the answer's end.

    `late` is how far behind its planned time the request was written, for open-loop load.
    """

    first: float
    last: float
    late: float = 0.0


class _LoadConnection(asyncio.Protocol):
    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self._reader = Reader()
        self._sent = self._first = 0.0
        self._answer: asyncio.Future[RequestTiming] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def connection_lost(self, error: Exception | None) -> None:
        self.transport = None
        if self._answer and not self._answer.done():
            self._answer.set_exception(LoadError(f"the connection broke off: {error or 'closed'}"))

    def ask(self, request: bytes) -> "asyncio.Future[RequestTiming]":
        if self.transport is None:
            raise LoadError("the connection is closed")
        self._answer = asyncio.get_running_loop().create_future()
        self._reader, self._first = Reader(), 0.0
        self._sent = time.perf_counter()
        self.transport.write(request)
        return self._answer

    def close(self) -> None:
        if self.transport is not None:
            self.transport.close()

    def data_received(self, data: bytes) -> None:
        now = time.perf_counter()
        if self._answer is None or self._answer.done():
            return
        self._acknowledge()
        try:
            self._reader.feed(data)
            if self._reader.body and not self._first:
                self._first = now - self._sent
            if self._reader.complete:
                self._finish(now)
        except (WireError, ValueError) as error:
            self._answer.set_exception(LoadError(str(error)))

    def _acknowledge(self) -> None:
        # A server that has left Nagle's algorithm on, as sglang-router has, sends an answer's second segment
        # only when the first is acknowledged, which Linux may put off by 40 ms.
        if _QUICKACK is not None and self.transport is not None:
            self.transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, _QUICKACK, 1)

    def _finish(self, now: float) -> None:
        assert self._answer is not None
        code = http_wire.status(self._reader.head)
        if code == 200 and b'"error"' not in self._reader.body:
            self._answer.set_result(RequestTiming(self._first, now - self._sent))
        else:
            text = self._reader.body[:300].decode(errors="replace")
            self._answer.set_exception(LoadError(f"answered {code}: {text}"))


@dataclass
class LoadClient:
    """Connections to one server, kept open between requests; as many as there are requests at a time."""

    url: str
    _idle: list[_LoadConnection] = field(default_factory=list)

    async def __aenter__(self) -> "LoadClient":
        return self

    async def __aexit__(self, *_: object) -> None:
        for connection in self._idle:
            connection.close()
        self._idle.clear()

    async def ask(self, body: bytes) -> RequestTiming:
        """POST /generate. Raises LoadError unless the answer is 200 and carries no error."""
        connection = await self._connection()
        try:
            async with asyncio.timeout(_ANSWER_S):
                timing = await connection.ask(http_wire.request("/generate", body, urlsplit(self.url).netloc))
        except (LoadError, TimeoutError) as error:
            connection.close()
            what = str(error) or f"gave no whole answer in {_ANSWER_S:.0f} s"
            raise LoadError(f"{self.url}/generate {what}") from None
        self._idle.append(connection)
        return timing

    async def _connection(self) -> _LoadConnection:
        while self._idle:
            if (connection := self._idle.pop()).transport is not None:
                return connection
        where = urlsplit(self.url)
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(_CONNECT_S):
                _, connection = await loop.create_connection(
                    _LoadConnection, str(where.hostname), int(where.port or 80)
                )
        except (OSError, TimeoutError) as error:
            raise LoadError(f"{self.url} cannot be reached: {error or type(error).__name__}") from error
        return connection


async def open_loop(
    client: LoadClient, bodies: Iterator[bytes], rate: float, seconds: float, seed: int
) -> list[RequestTiming]:
    """Requests at random moments (Poisson), `rate` a second, whether or not earlier ones are answered."""
    rng, start, tasks = random.Random(seed), time.perf_counter(), []
    planned = start
    async with asyncio.TaskGroup() as group:
        while (planned := planned + rng.expovariate(rate)) < start + seconds:
            await asyncio.sleep(max(0.0, planned - time.perf_counter()))
            late = time.perf_counter() - planned
            tasks.append((group.create_task(client.ask(next(bodies))), late))
    return [RequestTiming(task.result().first, task.result().last, late) for task, late in tasks]


async def closed_loop(client: LoadClient, bodies: Iterator[bytes], at_once: int, seconds: float) -> float:
    """Answers a second with `at_once` requests always running."""
    start, done = time.perf_counter(), 0

    async def keep_asking() -> None:
        nonlocal done
        while time.perf_counter() < start + seconds:
            await client.ask(next(bodies))
            done += 1

    async with asyncio.TaskGroup() as group:
        for _ in range(at_once):
            group.create_task(keep_asking())
    return done / (time.perf_counter() - start)


def milliseconds(timings: list[RequestTiming]) -> dict[str, float]:
    """p50 and p99 of what was timed, by name."""
    return {
        f"{what}_p{round(100 * share)}_ms": 1e3 * percentile((getattr(t, what) for t in timings), share)
        for what in ("first", "last", "late")
        for share in (0.5, 0.99)
    }
