"""The router's application: its parts put together, and their life cycle."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

import aiohttp
from aiohttp import web
from aiohttp.typedefs import Middleware

from mempool.security.access import ClusterAccess
from mempool.security.cluster_key import ClusterKeyError
from router.config.settings import ConfigError, RouterConfig
from router.fleet.factory import new_registry
from router.fleet.fanout import Fanout
from router.fleet.health import HealthWatch
from router.fleet.workers import Workers
from router.forwarding.forwarder import Forwarder
from router.http.access import AccessLog
from router.http.auth import authorization, require_key
from router.http.endpoints import ENDPOINTS, routes
from router.http.generate_probe import GenerateProbe
from router.http.response import failures_as_json
from router.http.services import SERVICES, Services
from router.http.shutdown import GracefulShutdown
from router.http.target import listed_target
from router.instances.registry import Registry
from router.kv_events import Feeds
from router.metrics import Metrics
from router.prefix_tree import EventTree
from router.prompt.tokens import Tokens
from router.scheduling.core import RouterCore, router_core

logger = logging.getLogger(__name__)

# SGLang closes idle connections after 5 s. The router closes them earlier: no request meets a closing one.
KEEPALIVE_SECS = 2.0


@asynccontextmanager
async def running_app(
    config: RouterConfig, shutdown: GracefulShutdown
) -> AsyncIterator[tuple[web.Application, asyncio.Task[None]]]:
    """The application behind `shutdown`, and the task of its health checks, which leaving the block ends.

    All instances have been probed once. The task ends by itself only if the checks crash. Raises ConfigError
    for a --profile or a cluster key that cannot be read.
    """
    registry = new_registry(config)
    tokens = Tokens(registry.instances, config.tokenizer, config.tokenize_timeout_secs)
    core = router_core(config, registry, tokens, timer=asyncio.get_running_loop())
    scheduler = core.scheduler
    async with AsyncExitStack() as stack:
        stack.push_async_callback(tokens.close)
        session = await stack.enter_async_context(_session(config))
        watch = HealthWatch(registry, session, config)
        await watch.probe_all()
        if scheduler.needs_tokens:
            tokens.prepare()
        feeds = await stack.enter_async_context(_feeds(registry, core, _access(config)))
        forwarder = Forwarder(config, registry, scheduler, session)
        stack.push_async_callback(forwarder.close)
        checks = await stack.enter_async_context(_background(watch.run(), "health checks"))
        generate_probe = GenerateProbe(forwarder, config)
        stack.push_async_callback(generate_probe.close)
        workers = Workers(registry, watch, config, scheduler.forget)
        stack.push_async_callback(workers.close)
        middlewares = _middlewares(config, shutdown)
        app = web.Application(client_max_size=config.max_payload_size, middlewares=middlewares)
        metrics = Metrics(registry, scheduler, forwarder.retries)
        AccessLog(metrics.requests, enabled=config.access_log).watch(app)
        app[SERVICES] = Services(
            config=config,
            registry=registry,
            scheduler=scheduler,
            forwarder=forwarder,
            fanout=Fanout(registry, session, config),
            generate_probe=generate_probe,
            workers=workers,
            feeds=feeds,
            metrics=metrics,
        )
        app.add_routes(routes())
        yield app, checks


def _access(config: RouterConfig) -> ClusterAccess:
    """Raises ConfigError."""
    try:
        return ClusterAccess.from_environment(key_file=config.cluster_key_file, name="router")
    except ClusterKeyError as error:
        raise ConfigError(str(error)) from None


@asynccontextmanager
async def _feeds(registry: Registry, core: RouterCore, access: ClusterAccess) -> AsyncIterator[Feeds | None]:
    """None where no policy would look at what they report."""
    if not (isinstance(core.tree, EventTree) and core.scheduler.needs_tokens):
        yield None
        return
    feeds = Feeds(registry.instances, core.tree.mirrors, access=access)
    async with _background(feeds.run(), "feeds of events"):
        yield feeds


def _middlewares(config: RouterConfig, shutdown: GracefulShutdown) -> list[Middleware]:
    failures = failures_as_json(config.request_timeout_secs)
    public = frozenset(endpoint.path for endpoint in ENDPOINTS if endpoint.public)
    keys = [require_key(config.api_key, public)] if config.api_key else []
    return [failures, shutdown.middleware, *keys, listed_target]


def _session(config: RouterConfig) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        headers=authorization(config.worker_api_key),
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEPALIVE_SECS),
        skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
    )


@asynccontextmanager
async def _background(run: Coroutine[None, None, None], name: str) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(run)
    task.add_done_callback(partial(_report_crash, name))
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def _report_crash(name: str, task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()):
        logger.error("%s have crashed", name, exc_info=error)
