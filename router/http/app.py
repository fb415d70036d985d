"""The router's application: its parts put together, and their life cycle."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

from aiohttp import web
from aiohttp.typedefs import Middleware

from mempool.security.access import ClusterAccess
from mempool.security.cluster_key import ClusterKeyError
from router.admission.admission import Admission
from router.config.settings import ConfigError, RouterConfig
from router.fleet.factory import new_registry
from router.fleet.fanout import Fanout
from router.fleet.health import HealthWatch
from router.fleet.workers import Workers
from router.forwarding.forwarder import Forwarder
from router.http.access import AccessLog
from router.http.auth import Keys, identified
from router.http.endpoint import Access
from router.http.endpoints import ENDPOINTS, routes
from router.http.generate_probe import GenerateProbe
from router.http.messages import body_released
from router.http.reload import Reloads
from router.http.response import failures_as_json
from router.http.services import SERVICES, Services
from router.http.shutdown import GracefulShutdown
from router.http.target import listed_target
from router.http.tenancy import kept_apart
from router.instances.client import InstanceClient
from router.instances.registry import Registry
from router.kv_events import Feeds
from router.metrics import Metrics
from router.prefix_tree import EventTree
from router.prompt.tokens import Tokens
from router.protocol.tls import ClientTls
from router.scheduling.core import RouterCore, router_core
from router.tenants.directory import Tenants

logger = logging.getLogger(__name__)


@asynccontextmanager
async def running_app(
    config: RouterConfig, shutdown: GracefulShutdown, reloads: Reloads
) -> AsyncIterator[tuple[web.Application, asyncio.Task[None]]]:
    """The application behind `shutdown`, and the task of its health checks, which leaving the block ends.

    All instances have been probed once. The task ends by itself only if the checks crash. Raises ConfigError
    for a --profile, --tenants, certificates or a cluster key that cannot be read.
    """
    registry = new_registry(config)
    tokens = Tokens(registry.instances, config.tokenizer, config.tokenize_timeout_secs)
    core = router_core(config, registry, tokens, timer=asyncio.get_running_loop())
    scheduler = core.scheduler
    async with AsyncExitStack() as stack:
        stack.push_async_callback(tokens.close)
        tls = ClientTls(config.ca_cert_paths, config.client_cert_path, config.client_key_path)
        if tls.reads_files:
            reloads.add("certificates towards instances", tls.reload)
        client = await stack.enter_async_context(InstanceClient(tls))
        watch = HealthWatch(registry, client, config)
        await watch.probe_all()
        if scheduler.needs_tokens:
            tokens.prepare()
        access = _access(config)
        feeds = await stack.enter_async_context(_feeds(registry, core, access))
        forwarder = Forwarder(config, registry, scheduler, client)
        stack.push_async_callback(forwarder.close)
        checks = await stack.enter_async_context(_background(watch.run(), "health checks"))
        generate_probe = GenerateProbe(forwarder, config)
        stack.push_async_callback(generate_probe.close)
        workers = Workers(registry, watch, config, scheduler.forget)
        stack.push_async_callback(workers.close)
        tenants, admission = _tenants(config, reloads, access), Admission(config)
        middlewares = _middlewares(config, shutdown, tenants, admission)
        app = web.Application(client_max_size=config.max_payload_size, middlewares=middlewares)
        metrics = Metrics(registry, scheduler, forwarder.retries, admission, tenants)
        AccessLog(metrics.requests, enabled=config.access_log).watch(app)
        app[SERVICES] = Services(
            config=config,
            admission=admission,
            registry=registry,
            scheduler=scheduler,
            forwarder=forwarder,
            fanout=Fanout(registry, client, config),
            generate_probe=generate_probe,
            workers=workers,
            feeds=feeds,
            tenants=tenants,
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


def _tenants(config: RouterConfig, reloads: Reloads, access: ClusterAccess) -> Tenants | None:
    """Those of the configuration's file. All routers of a cluster have its key. Raises ConfigError."""
    if not config.tenants:
        return None
    secret = config.tenants_secret.encode()
    if not secret and access.key is not None:
        secret = access.key.derive("tenants")
    tenants = Tenants(Path(config.tenants), secret)
    reloads.add("the file of tenants", tenants.reload)
    return tenants


def _middlewares(
    config: RouterConfig, shutdown: GracefulShutdown, tenants: Tenants | None, admission: Admission
) -> list[Middleware]:
    failures = failures_as_json(admission.refused)
    # What is measured adds up what all tenants do.
    closed = config.metrics_require_key or tenants is not None
    metrics = Access.ADMIN if closed else Access.PUBLIC
    identify = identified(Keys(config, tenants), ENDPOINTS, metrics=metrics)
    apart = [] if tenants is None else [kept_apart(ENDPOINTS)]
    return [body_released, failures, shutdown.middleware, identify, *apart, listed_target]


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
