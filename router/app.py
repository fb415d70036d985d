"""The router's endpoints."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import aiohttp
import orjson
from aiohttp import web

from router import headers
from router.config import RouterConfig
from router.delivery import deliver, failures_as_json
from router.errors import JSON_HEADERS, ClientSilent, NoInstance, PayloadTooLarge
from router.fanout import Fanout
from router.front import Front
from router.health import HealthWatch
from router.policies import POLICIES
from router.registry import Registry

logger = logging.getLogger(__name__)

GENERATE = ("/generate", "/v1/completions", "/v1/chat/completions")
MODEL_INFO = ("/v1/models", "/model_info", "/get_model_info")
# SGLang closes idle connections after 5 s: let them go first, so that no request is sent into a closing one.
KEEPALIVE_SECS = 2.0


@dataclass(frozen=True)
class Endpoints:
    """Handlers over what they need; one object for one running router."""

    config: RouterConfig
    registry: Registry
    front: Front
    fanout: Fanout

    def routes(self) -> list[web.RouteDef]:
        served = [
            *(web.post(path, self.generate) for path in GENERATE),
            *(web.get(path, self.anyone) for path in MODEL_INFO),
            *(web.get(path, self.server_info) for path in ("/server_info", "/get_server_info")),
            web.get("/health", self.health),
            web.get("/workers", self.workers),
            web.get("/flush_cache", self.flush_cache, allow_head=False),
            web.post("/flush_cache", self.flush_cache),
        ]
        # Browsers ask first whether they may; what SGLang allows is SGLang's to say.
        paths = dict.fromkeys(route.path for route in served)
        return [*served, *(web.options(path, self.anyone) for path in paths)]

    async def generate(self, request: web.Request) -> web.StreamResponse:
        raw = await self._body(request)
        async with self.front.generate(request, raw) as answer:
            return await deliver(request, answer, self.config.request_timeout_secs)

    async def anyone(self, request: web.Request) -> web.StreamResponse:
        async with self.front.anyone(request) as answer:
            return await deliver(request, answer, self.config.request_timeout_secs)

    async def server_info(self, request: web.Request) -> web.Response:
        return _json(await self.fanout.server_info(headers.to_instance(request.headers)))

    async def flush_cache(self, request: web.Request) -> web.Response:
        target = request.path_qs
        status, report = await self.fanout.flush_cache(target, headers.to_instance(request.headers))
        return _json(report, status)

    async def health(self, _: web.Request) -> web.Response:
        if reason := self.registry.unservable():
            raise NoInstance(reason)
        return _json({"status": "ok"})

    async def workers(self, _: web.Request) -> web.Response:
        return _json({"workers": [instance.describe() for instance in self.registry.instances]})

    async def _body(self, request: web.Request) -> bytes:
        try:
            async with asyncio.timeout(self.config.request_timeout_secs):
                return await request.read()
        except TimeoutError:
            raise ClientSilent("the request's body did not arrive in time (--request-timeout-secs)") from None
        except web.HTTPRequestEntityTooLarge:
            limit = self.config.max_payload_size
            raise PayloadTooLarge(f"the body is larger than {limit} bytes (--max-payload-size)") from None


@asynccontextmanager
async def running_app(config: RouterConfig) -> AsyncIterator[tuple[web.Application, asyncio.Task[None]]]:
    """The application and the task of its health checks, which leaving the block ends.

    All instances have been probed once. The task ends by itself only if the checks crash.
    """
    registry = Registry.from_config(config)
    async with AsyncExitStack() as stack:
        session = await stack.enter_async_context(_session())
        front = Front(config, registry, POLICIES[config.policy](), session)
        stack.push_async_callback(front.close)
        watch = HealthWatch(registry, session, config)
        await watch.probe_all()
        checks = await stack.enter_async_context(_background(watch))
        failures = failures_as_json(config.request_timeout_secs)
        app = web.Application(client_max_size=config.max_payload_size, middlewares=[failures])
        app.add_routes(Endpoints(config, registry, front, Fanout(registry, session, config)).routes())
        yield app, checks


def _session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEPALIVE_SECS),
        skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
    )


@asynccontextmanager
async def _background(watch: HealthWatch) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(watch.run())
    task.add_done_callback(_report_crash)
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def _report_crash(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()):
        logger.error("health checks have crashed", exc_info=error)


def _json(value: object, status: int = 200) -> web.Response:
    return web.Response(status=status, headers=JSON_HEADERS, body=orjson.dumps(value))
