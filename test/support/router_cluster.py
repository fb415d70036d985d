"""A router on real sockets, and mock SGLang instances that record what they get and fail on request."""

import asyncio
import json
from contextlib import AsyncExitStack
from types import SimpleNamespace

import aiohttp
import pytest
from aiohttp import web

from router.config.settings import PrefillUrl, RouterConfig
from router.http.server import serving

SSE = [
    b'data: {"text": "a"}\n\n',
    b'data: {"text": ',
    b'"ab"}\n\ndata: {"te',
    b'xt": "abc"}\n\n',
    b"data: [DONE]\n\n",
]


# Probes are none of a test's business unless it says so; and with turns it knows who comes next.
DETERMINED = {
    "policy": "round_robin",
    "health_check_interval_secs": 60,
    "shutdown_grace_period_secs": 0.5,
}


# An instance's server takes more than aiohttp does by default.
LARGE_HEADS = {"max_line_size": 1 << 17, "max_field_size": 1 << 17, "max_headers": 1 << 15}


class MockInstance:
    """Answers, or streams `chunks` if asked to stream.

    `refusal` answers that instead (or what it makes of the body), `hold` waits for `release` before the
    answer, `hold_after` after so many chunks, `die` drops every connection and the port. `deaf` reads no
    body, `read_pause` pauses after each MiB of it, `refuses_unread` begins a 400 before it.
    """

    def __init__(self, port, tls=None):
        self.port = port
        self._tls = tls
        self.info = {"port": port, "version": "mock"}
        self.info_held: asyncio.Event | None = None
        self.probes = self.info_requests = 0
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.port}"
        self.answer = json.dumps({"text": "hello", "port": self.port}).encode()
        self.chunks = list(SSE)
        self.stream_type = "text/event-stream; charset=utf-8"
        self.refusal = None
        self.redirect = self.probe_redirect = self.info_redirect = None
        self.presented = []
        self.hold = False
        self.hold_after = None
        self.deaf = self.refuses_unread = False
        self.read_pause = None
        self.abort_pause = 0
        self.connections = set()
        self.probe_status = 200
        self.seen, self.aborts = [], []
        self.on_target = lambda target: None
        self.arrived, self.aborted, self.release = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._runner = None

    @property
    def bodies(self):
        return [json.loads(raw) for _, raw, _ in self.seen]

    async def start(self):
        app = web.Application(client_max_size=1 << 26)
        app.add_routes(
            [
                web.get("/model_info", self._probe),
                web.get("/server_info", self._info),
                web.post("/abort_request", self._abort),
                web.route("*", "/{path:.*}", self._serve),
            ]
        )
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1, **LARGE_HEADS)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port, ssl_context=self._tls).start()

    async def die(self):
        runner, self._runner = self._runner, None
        if runner is not None:
            for connection in runner.server.connections:
                if connection.transport is not None:
                    connection.transport.abort()
            await runner.cleanup()

    async def probed(self, times):
        """Returns once it was probed so many times more."""
        enough = self.probes + times
        while self.probes < enough:
            await asyncio.sleep(0.005)

    async def _probe(self, request):
        self.probes += 1
        self.presented.append(request.headers.get("Authorization"))
        if self.probe_redirect:
            raise web.HTTPTemporaryRedirect(self.probe_redirect)
        return web.json_response({"model_path": "mock", "port": self.port}, status=self.probe_status)

    async def _info(self, request):
        self.info_requests += 1
        self.presented.append(request.headers.get("Authorization"))
        if self.info_redirect:
            raise web.HTTPTemporaryRedirect(self.info_redirect)
        if self.info_held is not None:
            await self.info_held.wait()
        return web.json_response(self.info)

    async def _abort(self, request):
        await asyncio.sleep(self.abort_pause)
        if self.redirect:
            raise web.HTTPTemporaryRedirect(self.redirect)
        if isinstance(self.refusal, tuple):
            status, body = self.refusal
            return web.Response(status=status, body=body)
        try:
            body = json.loads(await request.read())
        except (ValueError, RecursionError):
            refusal = {"error": {"message": "no JSON", "type": "bad_request", "code": 400}}
            return web.json_response(refusal, status=400)
        self.aborts.append((body, request.headers.copy()))
        return web.Response()

    async def _serve(self, request):
        self.connections.add(request.transport.get_extra_info("peername"))
        self.on_target(request.raw_path)
        if self.refuses_unread:
            response = web.StreamResponse(status=400)
            await response.prepare(request)
            await request.read()
            await response.write(b"unread")
            return response
        if self.deaf:
            await self.release.wait()
        if self.read_pause is not None:
            async for _ in request.content.iter_chunked(1 << 20):
                await asyncio.sleep(self.read_pause)
            return web.Response(body=self.answer, content_type="application/json")
        raw = await request.read()
        self.seen.append((request.path_qs, raw, request.headers.copy()))
        self.arrived.set()
        try:
            return await self._reply(request, raw)
        except asyncio.CancelledError:
            self.aborted.set()
            raise

    async def _reply(self, request, raw):
        if self.hold and self.hold_after is None:
            await self.release.wait()
        if self.redirect:
            raise web.HTTPTemporaryRedirect(self.redirect)
        if self.refusal:
            status, body = self.refusal(raw) if callable(self.refusal) else self.refusal
            return web.Response(
                status=status, body=body, content_type="application/json", headers={"X-From": "mock"}
            )
        if b'"stream":true' not in raw.replace(b" ", b""):
            return web.Response(body=self.answer, content_type="application/json")
        response = web.StreamResponse(headers={"Content-Type": self.stream_type})
        await response.prepare(request)
        for number, chunk in enumerate(self.chunks):
            if number == self.hold_after:
                await self.release.wait()
            await response.write(chunk)
            await asyncio.sleep(0.001)
        return response


@pytest.fixture
async def start(free_port):
    """`await start(prefill=1, decode=1, colocated=0, **settings)`: a router with mocks behind it.

    `tls`: what the mocks speak https with.
    """
    async with AsyncExitStack() as stack:
        session = await stack.enter_async_context(aiohttp.ClientSession())

        async def mocks(count, info, tls):
            made = [MockInstance(free_port(), tls) for _ in range(count)]
            for mock in made:
                mock.info |= info
                await mock.start()
                stack.push_async_callback(mock.die)
            return made

        async def start(
            prefill=0, decode=0, colocated=0, bootstrap_port=8998, info=(), tls=None, reloads=None, **settings
        ):
            ps, ds, cs = [await mocks(count, dict(info), tls) for count in (prefill, decode, colocated)]
            config = RouterConfig(
                prefill=tuple(PrefillUrl(mock.url, bootstrap_port) for mock in ps),
                decode=tuple(mock.url for mock in ds),
                colocated=tuple(mock.url for mock in cs),
                port=free_port(),
                **(DETERMINED | settings),
            )
            await stack.enter_async_context(serving(config, reloads))
            url = f"{'https' if config.tls_cert_path else 'http'}://{config.host}:{config.port}"
            return SimpleNamespace(url=url, session=session, prefill=ps, decode=ds, colocated=cs)

        yield start


@pytest.fixture
async def pd(start):
    """A prefill and a decode instance: `pd.p`, `pd.d`."""
    cluster = await start(prefill=1, decode=1)
    cluster.p, cluster.d = cluster.prefill[0], cluster.decode[0]
    return cluster
