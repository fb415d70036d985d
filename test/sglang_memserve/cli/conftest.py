import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from sglang_memserve.cluster import sglang_flags

CHUNKS = ("The ", "answer.")


class FakeRouter:
    """Answers as the router does in front of one prefill and one decode instance."""

    def __init__(self) -> None:
        self.asked: list[dict] = []
        self.events: list[object] | None = None
        self.status = 200
        self.kv_bytes: int | None = 0
        self.workers: object = {"workers": []}
        self.load: object = {}
        self.decision: object = {}
        self.api_key: str | None = None
        self.hold: asyncio.Event | None = None

    def app(self) -> web.Application:
        app = web.Application(middlewares=[self.demand_key])
        app.router.add_post("/v1/chat/completions", self.chat)
        app.router.add_get("/server_info", self.server_info)
        app.router.add_get("/workers", _handler(lambda: self.workers))
        app.router.add_post("/explain", self.explain)
        app.router.add_get("/v1/loads", _handler(lambda: self.load))
        return app

    @web.middleware
    async def demand_key(self, request: web.Request, handler) -> web.StreamResponse:
        if self.api_key and request.headers.get("Authorization") != f"Bearer {self.api_key}":
            return web.Response(status=401, text="no key")
        return await handler(request)

    async def chat(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(await request.json())
        if self.status != 200:
            return web.Response(status=self.status, text="no such thing")
        if self.kv_bytes is not None:
            self.kv_bytes += 1_500_000
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        if self.hold:
            await self.hold.wait()
        for event in self.events if self.events is not None else _answer():
            await response.write(f"data: {json.dumps(event)}\n\n".encode())
        await response.write(b"data: [DONE]\n\n")
        return response

    async def explain(self, request: web.Request) -> web.Response:
        self.asked.append(await request.json())
        return await _json(self.decision)

    async def server_info(self, _: web.Request) -> web.Response:
        state = {} if self.kv_bytes is None else {"memserve": {"kv_bytes_received": self.kv_bytes}}
        return await _json({"prefill": [{}], "decode": [{"internal_states": [state]}], "colocated": []})


async def _json(body: object) -> web.Response:
    return web.json_response(body)


def _handler(body: Callable[[], object]) -> Callable[[web.Request], Awaitable[web.Response]]:
    """Answers with what `body` returns then."""

    async def handle(_: web.Request) -> web.Response:
        return web.json_response(body())

    return handle


def _answer() -> list[dict]:
    texts = [{"choices": [{"delta": {"content": text}}], "usage": None} for text in CHUNKS]
    usage = {"prompt_tokens": 44, "prompt_tokens_details": {"cached_tokens": 32}}
    return [
        {"choices": [{"delta": {"role": "assistant", "content": ""}}]},
        *texts,
        {"choices": [], "usage": usage},
    ]


@pytest.fixture
async def router():
    fake = FakeRouter()
    async with TestServer(fake.app()) as server:
        fake.url = str(server.make_url("")).rstrip("/")
        yield fake


@pytest.fixture
async def instances():
    """`await instances(info, ...)`: the URLs of servers that are healthy and tell that at /server_info."""
    async with AsyncExitStack() as stack:

        async def start(*infos: dict) -> list[str]:
            urls = []
            for info in infos:
                app = web.Application()
                app.router.add_get("/model_info", _handler(dict))
                app.router.add_get("/server_info", _handler(partial(dict, info)))
                server = await stack.enter_async_context(TestServer(app))
                urls.append(str(server.make_url("")).rstrip("/"))
            return urls

        yield start


@pytest.fixture
def sglangs_flags(monkeypatch):
    """SGLang's flags, without asking SGLang."""

    async def names(timeout_s: float) -> list[str]:
        return ["--page-size", "--tp-size", "--mem-fraction-static"]

    monkeypatch.setattr(sglang_flags, "flag_names", names)
