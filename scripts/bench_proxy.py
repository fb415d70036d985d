#!/usr/bin/env python3
"""Which HTTP server should the router stand on, and what does the router add to a request?

One mock worker answers with canned JSON or a canned SSE stream. Every arm proxies it in its own process: a
minimal aiohttp.web proxy, a minimal uvicorn/Starlette proxy (both with aiohttp as client), and the router
itself. Rounds are interleaved over the arms; every figure is the median of the rounds with its lowest and
highest. Needs uvicorn, starlette and, to be fair to uvicorn, httptools (else uvicorn parses in Python, and
the result says so).
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import json
import os
import platform
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import psutil
import uvloop
from aiohttp import web

ARMS = ("direct", "aiohttp", "starlette", "router")
ANSWER = json.dumps({"text": "x" * 900, "meta_info": {"finish_reason": {"type": "length"}}}).encode()
CHUNK = b"data: " + json.dumps({"text": "y" * 160, "index": 0}).encode() + b"\n\n"
DONE = b"data: [DONE]\n\n"
GAP_SECONDS = 0.002


def machine() -> dict[str, Any]:
    return {
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "aiohttp": aiohttp.__version__,
        "uvicorn_parser": "httptools" if importlib.util.find_spec("httptools") else "h11",
    }


# --- the processes under test


def serve_worker(port: int, chunks: int) -> None:
    async def generate(request: web.Request) -> web.StreamResponse:
        if not (await request.json()).get("stream"):
            return web.Response(body=ANSWER, content_type="application/json")
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for _ in range(chunks):
            await asyncio.sleep(GAP_SECONDS)
            await response.write(CHUNK)
        await response.write(DONE)
        return response

    async def model_info(_: web.Request) -> web.Response:
        return web.json_response({})

    app = web.Application()
    app.add_routes([web.post("/generate", generate), web.get("/model_info", model_info)])
    web.run_app(app, host="127.0.0.1", port=port, access_log=None, print=None, loop=uvloop.new_event_loop())


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
        async with request.app[session].post(worker + request.path, data=body) as upstream:
            if upstream.content_type != "text/event-stream":
                return web.Response(body=await upstream.read(), content_type=upstream.content_type)
            response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
            await response.prepare(request)
            async for chunk in upstream.content.iter_any():
                await response.write(chunk)
            return response

    app = web.Application(client_max_size=1 << 28)
    app.cleanup_ctx.append(opened)
    app.add_routes([web.post("/generate", forward)])
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
        upstream = await request.app.state.session.post(worker + request.url.path, data=body)
        if upstream.content_type != "text/event-stream":
            async with upstream:
                return Response(await upstream.read(), media_type=upstream.content_type)

        async def relay() -> AsyncIterator[bytes]:
            async with upstream:
                async for chunk in upstream.content.iter_any():
                    yield chunk

        return StreamingResponse(relay(), media_type="text/event-stream")

    app = Starlette(routes=[Route("/generate", forward, methods=["POST"])], lifespan=lifespan)
    uvicorn.run(app, host="127.0.0.1", port=port, loop="uvloop", access_log=False, log_level="warning")


# --- measuring


@dataclass
class Arm:
    url: str
    process: psutil.Process
    samples: dict[str, list[float]] = field(default_factory=dict)

    def note(self, **figures: float) -> None:
        for name, value in figures.items():
            self.samples.setdefault(name, []).append(value)

    def cpu_seconds(self) -> float:
        times = self.process.cpu_times()
        return times.user + times.system


async def ask(session: aiohttp.ClientSession, url: str, stream: bool) -> tuple[float, float]:
    """Seconds to the first byte of the body and to its end."""
    start = time.perf_counter()
    async with session.post(url + "/generate", json={"text": "hello", "stream": stream}) as response:
        response.raise_for_status()
        first = 0.0
        async for _ in response.content.iter_any():
            first = first or time.perf_counter() - start
    return first, time.perf_counter() - start


async def measure(session: aiohttp.ClientSession, arm: Arm, stream: bool, requests: int, alone: int) -> None:
    kind = "stream" if stream else "json"
    one_by_one = [await ask(session, arm.url, stream) for _ in range(alone)]
    waits = sorted(1e3 * (first if stream else last) for first, last in one_by_one)
    cpu, start = arm.cpu_seconds(), time.perf_counter()
    gate = asyncio.Semaphore(32)

    async def gated() -> None:
        async with gate:
            await ask(session, arm.url, stream)

    await asyncio.gather(*(gated() for _ in range(requests)))
    elapsed = time.perf_counter() - start
    arm.note(
        **{
            f"{kind}_requests_per_s": requests / elapsed,
            f"{kind}_cpu_us_per_request": 1e6 * (arm.cpu_seconds() - cpu) / requests,
            f"{kind}_p50_ms": waits[len(waits) // 2],
            f"{kind}_p99_ms": waits[min(len(waits) - 1, int(0.99 * len(waits)))],
        }
    )


def summary(arms: dict[str, Arm]) -> dict[str, Any]:
    results: dict[str, Any] = {}
    for name, arm in arms.items():
        results[name] = {
            figure: {"median": statistics.median(v), "low": min(v), "high": max(v)}
            for figure, v in arm.samples.items()
        }
        for figure in ("json_p50_ms", "json_p99_ms", "stream_p50_ms", "stream_p99_ms"):
            extra = [a - b for a, b in zip(arm.samples[figure], arms["direct"].samples[figure], strict=True)]
            results[name]["added_" + figure] = {
                "median": statistics.median(extra),
                "low": min(extra),
                "high": max(extra),
            }
    return results


def bars(results: dict[str, Any]) -> list[dict[str, Any]]:
    def ratio(figure: str) -> float:
        return results["starlette"][figure]["median"] / results["aiohttp"][figure]["median"]

    added = results["router"]["added_json_p50_ms"]["median"]
    return [
        *(
            {
                "name": f"aiohttp.web's {figure}",
                "value": ratio(figure),
                "unit": "x less",
                "peer": "uvicorn",
                "bar": 1.0,
                "ok": ratio(figure) >= 1.0,
            }
            for figure in ("json_cpu_us_per_request", "stream_cpu_us_per_request")
        ),
        {
            "name": "router adds, p50",
            "value": added,
            "unit": "ms",
            "peer": "direct",
            "bar": 3.0,
            "ok": added <= 3.0,
        },
    ]


# --- running


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


@asynccontextmanager
async def process(arguments: Sequence[str], port: int) -> AsyncIterator[psutil.Process]:
    child = subprocess.Popen([sys.executable, *arguments])
    try:
        for _ in range(200):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            if child.poll() is not None:
                raise SystemExit(
                    f"{' '.join(arguments)} ended with code {child.returncode} before it listened"
                )
            await asyncio.sleep(0.1)
        else:
            raise SystemExit(f"{' '.join(arguments)} did not listen on port {port} within 20 s")
        yield psutil.Process(child.pid)
    finally:
        child.terminate()
        try:
            child.wait(10)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


async def run(options: argparse.Namespace) -> dict[str, Any]:
    async with AsyncExitStack() as stack:
        worker_port = free_port()
        worker = f"http://127.0.0.1:{worker_port}"
        arguments = [__file__, "--serve", "worker", str(worker_port), str(options.chunks)]
        arms = {"direct": Arm(worker, await stack.enter_async_context(process(arguments, worker_port)))}
        for name in ARMS[1:]:
            port = free_port()
            arguments = [__file__, "--serve", name, str(port), worker]
            if name == "router":
                arguments = ["-m", "router.launch_router", "--worker-urls", worker, "--port", str(port)]
            arms[name] = Arm(
                f"http://127.0.0.1:{port}", await stack.enter_async_context(process(arguments, port))
            )
        session = await stack.enter_async_context(client_session())
        for arm in arms.values():
            for stream in (False, True):
                await asyncio.gather(*(ask(session, arm.url, stream) for _ in range(32)))
        for number in range(options.rounds):
            print(f"round {number + 1} of {options.rounds}", file=sys.stderr)
            for arm in arms.values():
                await measure(session, arm, False, options.requests, 100)
                await measure(session, arm, True, options.requests // 4, 20)
        return summary(arms)


def print_table(results: dict[str, Any]) -> None:
    print(f"{'':32}" + "".join(f"{name:>24}" for name in results))
    for figure in results["direct"]:
        cells = (results[name][figure] for name in results)
        print(
            f"{figure:32}"
            + "".join(f"{c['median']:10.2f} ({c['low']:.2f}-{c['high']:.2f})".rjust(24) for c in cells)
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    parser.add_argument("--full", action="store_true", help="four times the requests")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--requests", type=int, default=800, help="unstreamed requests a round; a quarter of it streamed"
    )
    parser.add_argument("--chunks", type=int, default=32, help="events in a stream, 2 ms apart")
    parser.add_argument("--serve", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        name, port, argument = options.serve
        if name == "worker":
            return serve_worker(int(port), int(argument))
        return {"aiohttp": serve_aiohttp, "starlette": serve_starlette}[name](int(port), argument)
    options.requests *= 4 if options.full else 1
    results = asyncio.run(run(options))
    print_table(results)
    if options.json:
        print(json.dumps({"machine": machine(), "results": results, "bars": bars(results)}))


if __name__ == "__main__":
    main()
