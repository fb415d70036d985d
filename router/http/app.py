"""The router put together."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

import aiohttp
from aiohttp import web
from aiohttp.typedefs import Middleware

from router.config.names import POLICY_ALIASES
from router.config.settings import ConfigError, RouterConfig
from router.cost.estimator import CostEstimator
from router.cost.profile import ProfileError
from router.cost.speeds import Speeds
from router.fleet.factory import new_registry
from router.fleet.fanout import Fanout
from router.fleet.health import HealthWatch
from router.fleet.workers import Workers
from router.forwarding.forwarder import Front
from router.http.auth import bearer, demanding
from router.http.endpoints import ENDPOINTS
from router.http.generate_probe import GenerateProbe
from router.http.handlers import Handlers
from router.http.response import failures_as_json
from router.http.shutdown import Gate
from router.instances.registry import Registry
from router.kv_events import Feeds
from router.metrics import METRICS, Metrics
from router.policies import POLICIES, PerRolePolicy, Policy
from router.prefix_tree import EventTree, PromptTree, ResponseTree
from router.prompt.tokens import Tokens
from router.scheduling.scheduler import Scheduler

logger = logging.getLogger(__name__)

# SGLang closes idle connections after 5 s: let them go first, so that no request is sent into a closing one.
KEEPALIVE_SECS = 2.0


@asynccontextmanager
async def running_app(
    config: RouterConfig, gate: Gate
) -> AsyncIterator[tuple[web.Application, asyncio.Task[None]]]:
    """The application behind `gate`, and the task of its health checks, which leaving the block ends.

    All instances have been probed once. The task ends by itself only if the checks crash. Raises ConfigError
    for a --profile that cannot be read.
    """
    estimator = _estimator(config)
    registry = new_registry(config)
    async with AsyncExitStack() as stack:
        session = await stack.enter_async_context(_session(config))
        watch = HealthWatch(registry, session, config)
        await watch.probe_all()
        tree = _tree(config)
        routing = await stack.enter_async_context(_routing(config, registry, tree, estimator))
        feeds = await stack.enter_async_context(_feeds(registry, routing, tree))
        front = Front(config, registry, routing, session)
        stack.push_async_callback(front.close)
        checks = await stack.enter_async_context(_background(watch.run(), "health checks"))
        canary = GenerateProbe(front, config)
        stack.push_async_callback(canary.close)
        workers = Workers(registry, watch, config, routing.forget)
        stack.push_async_callback(workers.close)
        middlewares = _middlewares(config, gate)
        app = web.Application(client_max_size=config.max_payload_size, middlewares=middlewares)
        fanout = Fanout(registry, session, config)
        metrics = app[METRICS] = Metrics(registry, routing)
        metrics.watch(app)
        handlers = Handlers(config, registry, routing, front, fanout, canary, workers, feeds, metrics)
        app.add_routes(handlers.routes())
        yield app, checks


def _estimator(config: RouterConfig) -> CostEstimator:
    try:
        return CostEstimator(Speeds(config.profile))
    except ProfileError as error:
        raise ConfigError(f"--profile {error}") from error


def _tree(config: RouterConfig) -> PromptTree:
    if config.tree_update == "response":
        return ResponseTree(config.tree_ttl, config.max_tree_size)
    return EventTree(config.tree_ttl, config.prediction_ttl, config.max_tree_size)


@asynccontextmanager
async def _routing(
    config: RouterConfig, registry: Registry, tree: PromptTree, estimator: CostEstimator
) -> AsyncIterator[Scheduler]:
    policy = _policy(config, tree, estimator)
    tokens = Tokens(registry.instances, config.tokenizer, config.tokenize_timeout_secs)
    try:
        if policy.needs_tokens:
            tokens.prepare()
        yield Scheduler(config, registry, policy, tree, tokens, estimator)
    finally:
        await tokens.close()


@asynccontextmanager
async def _feeds(registry: Registry, routing: Scheduler, tree: PromptTree) -> AsyncIterator[Feeds | None]:
    """None where nobody would look at what they tell."""
    if not (isinstance(tree, EventTree) and routing.needs_tokens):
        yield None
        return
    feeds = Feeds(registry.instances, tree.mirrors)
    async with _background(feeds.run(), "feeds of events"):
        yield feeds


def _policy(config: RouterConfig, tree: PromptTree, prices: CostEstimator) -> Policy:
    prefill, decode = (
        _named(name or config.policy) for name in (config.prefill_policy, config.decode_policy)
    )
    policy = POLICIES[prefill](tree, prices)
    return policy if prefill == decode else PerRolePolicy(policy, POLICIES[decode](tree, prices))


def _named(name: str) -> str:
    if name in POLICY_ALIASES:
        logger.info("policy %s of sglang_router is %s here", name, POLICY_ALIASES[name])
    return POLICY_ALIASES.get(name, name)


def _middlewares(config: RouterConfig, gate: Gate) -> list[Middleware]:
    failures = failures_as_json(config.request_timeout_secs)
    public = frozenset(one.path for one in ENDPOINTS if one.public)
    keys = [demanding(config.api_key, public)] if config.api_key else []
    return [failures, gate.watch, *keys]


def _session(config: RouterConfig) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        headers=bearer(config.worker_api_key),
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEPALIVE_SECS),
        skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
    )


@asynccontextmanager
async def _background(work: Coroutine[None, None, None], name: str) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(work)
    task.add_done_callback(partial(_report_crash, name))
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def _report_crash(name: str, task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()):
        logger.error("%s have crashed", name, exc_info=error)
