#!/usr/bin/env python3
"""Which HTTP server should the router stand on, and what does the router add to a request?

One mock worker answers with canned JSON or a canned stream. Every arm proxies it in its own process: a
minimal aiohttp.web proxy, a minimal uvicorn/Starlette proxy (both with aiohttp as client), and the router
itself. Rounds are interleaved over the arms; each figure is the median, with lowest and highest.
Needs uvicorn, starlette and, to be fair to uvicorn, httptools (else uvicorn parses in Python, and the result
says so).
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import psutil
import uvloop
from aiohttp import web

from benchmark import command
from benchmark.bars import Bar, at_least, at_most, conclude
from benchmark.load import LoadClient, closed_loop
from sglang_memserve.bench import children
from sglang_memserve.bench.figures import Rounds, percentile
from sglang_memserve.cluster import probe
from sglang_memserve.cluster.ports import PortPicker
from sglang_memserve.cluster.supervisor import Member
from sglang_memserve.machine import machine_description

DIRECT, AIOHTTP, STARLETTE, ROUTER = "direct", "aiohttp", "starlette", "router"
KINDS = ("json", "stream")
AT_ONCE = 32
GAP_MS = 2


# --- the processes under test


def client_session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0),
        timeout=aiohttp.ClientTimeout(total=None, connect=5, sock_read=30),
        auto_decompress=False,
    )


def serve_aiohttp(port: int, worker: str) -> None:
    session = web.AppKey("session", aiohttp.ClientSession)

    async def opened(app: web.Application) -> AsyncIterator[None]:
        async with client_session() as app[session]:
            yield

    async def forward(request: web.Request) -> web.StreamResponse:
        body = await request.read()
        async with request.app[session].request(request.method, worker + request.path, data=body) as upstream:
            if upstream.content_type != "text/event-stream":
                return web.Response(body=await upstream.read(), content_type=upstream.content_type)
            response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
            await response.prepare(request)
            async for chunk in upstream.content.iter_any():
                await response.write(chunk)
            return response

    app = web.Application(client_max_size=1 << 28)
    app.cleanup_ctx.append(opened)
    app.add_routes([web.route("*", "/{path:.*}", forward)])
    web.run_app(app, host="127.0.0.1", port=port, access_log=None, print=None, loop=uvloop.new_event_loop())


def serve_starlette(port: int, worker: str) -> None:
    import uvicorn
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response, StreamingResponse
    from starlette.routing import Route

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with client_session() as app.state.session:
            yield

    async def forward(request: Request) -> Response:
        body = await request.body()
        upstream = await request.app.state.session.request(
            request.method, worker + request.url.path, data=body
        )
        if upstream.content_type != "text/event-stream":
            async with upstream:
                return Response(await upstream.read(), media_type=upstream.content_type)

        async def relay() -> AsyncIterator[bytes]:
            async with upstream:
                async for chunk in upstream.content.iter_any():
                    yield chunk

        return StreamingResponse(relay(), media_type="text/event-stream")

    app = Starlette(routes=[Route("/{path:path}", forward, methods=["GET", "POST"])], lifespan=lifespan)
    uvicorn.run(app, host="127.0.0.1", port=port, loop="uvloop", access_log=False, log_level="warning")


# --- measuring


@dataclass(frozen=True)
class ProxyArm:
    """A server that answers at `url`, and its process."""

    name: str
    url: str
    member: Member

    def cpu_seconds(self) -> float:
        times = psutil.Process(self.member.process.pid).cpu_times()
        return float(times.user + times.system)


async def measure(arm: ProxyArm, kind: str, options: argparse.Namespace) -> dict[str, float]:
    """One round: latencies one by one, then as many as go through `AT_ONCE` at a time."""
    bodies = itertools.repeat(orjson.dumps({"text": "hello", "stream": kind == "stream"}))
    what = "first" if kind == "stream" else "last"
    async with LoadClient(arm.url) as client:
        await closed_loop(client, bodies, AT_ONCE, 0.2)
        alone = [1e3 * getattr(await client.ask(next(bodies)), what) for _ in range(options.alone)]
        cpu, start = arm.cpu_seconds(), time.perf_counter()
        rate = await closed_loop(client, bodies, AT_ONCE, options.seconds)
        asked = rate * (time.perf_counter() - start)
    return {
        "requests_per_s": rate,
        "cpu_us_per_request": 1e6 * (arm.cpu_seconds() - cpu) / asked,
        "p50_ms": percentile(alone, 0.5),
        "p99_ms": percentile(alone, 0.99),
    }


async def one_round(rounds: Rounds, arms: list[ProxyArm], options: argparse.Namespace) -> None:
    for kind in KINDS:
        timed = {arm.name: await measure(arm, kind, options) for arm in arms}
        for name, figures in timed.items():
            added = {f"added_{p}_ms": figures[f"{p}_ms"] - timed[DIRECT][f"{p}_ms"] for p in ("p50", "p99")}
            rounds.note(kind, name, **figures, **({} if name == DIRECT else added))


def bars(rounds: Rounds) -> list[Bar]:
    def less_cpu(kind: str) -> float | None:
        return rounds.ratio(kind, "cpu_us_per_request", STARLETTE, AIOHTTP)

    return [
        *(at_least(f"aiohttp.web's CPU, {kind}", less_cpu(kind), 1.0, "x less", "uvicorn") for kind in KINDS),
        at_most("router adds, p50", rounds.median("json", ROUTER, "added_p50_ms"), 3.0, "ms", DIRECT),
    ]


# --- running


def member(name: str, port: int, worker: str, logs: Path, session: Any, chunks: int) -> Member:
    """The process of an arm."""
    commands = {
        DIRECT: ["-m", "benchmark.mock_worker", "--events", str(chunks), "--gap-ms", str(GAP_MS)],
        ROUTER: ["-m", "router.launch_router", "--worker-urls", worker, "--log-level", "warning"],
    }
    server = [*commands[name], "--port", str(port)] if name in commands else None
    argv = [sys.executable, "-P", *(server or [__file__, "--serve", name, str(port), worker])]
    url = f"http://{children.HOST}:{port}"
    return children.answering(name, argv, url, logs, session, path="/model_info")


async def benchmark(options: argparse.Namespace) -> None:
    rounds = Rounds()
    async with AsyncExitStack() as stack:
        logs = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench_proxy.")))
        session = await stack.enter_async_context(probe.client())
        ports = stack.enter_context(PortPicker(children.HOST, options.port))
        taken = {name: ports.pick() for name in (DIRECT, AIOHTTP, STARLETTE, ROUTER)}
        worker = f"http://{children.HOST}:{taken[DIRECT]}"
        arms = []
        for name, port in taken.items():
            process = member(name, port, worker, logs, session, options.chunks)
            await stack.enter_async_context(children.running([process], 30))
            arms.append(ProxyArm(name, f"http://{children.HOST}:{port}", process))
        for number in range(options.rounds):
            print(f"round {number + 1} of {options.rounds}", file=sys.stderr)
            await one_round(rounds, arms, options)
    print(rounds.table())
    parser = {"uvicorn_parser": "httptools" if importlib.util.find_spec("httptools") else "h11"}
    machine = machine_description("aiohttp", "uvicorn", "starlette", "uvloop") | parser
    conclude(machine, rounds.results(), bars(rounds), json=options.json)


def main() -> int:
    parser = command.parser(__doc__, rounds=5, full="four times as long", port=36000)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each round under load (default: 1)")
    parser.add_argument("--alone", type=int, default=100, help="requests of each round one by one")
    parser.add_argument("--chunks", type=int, default=32, help="events in a stream, 2 ms apart")
    parser.add_argument("--serve", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        name, port, worker = options.serve
        {AIOHTTP: serve_aiohttp, STARLETTE: serve_starlette}[name](int(port), worker)
        return 0
    options.seconds *= 4 if options.full else 1
    return children.run(benchmark(options))


if __name__ == "__main__":
    sys.exit(main())
