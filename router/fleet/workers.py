"""Adds and removes instances while the router runs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, NamedTuple

import orjson

from router.config.fields import checked_key
from router.config.settings import ConfigError, RouterConfig, check_port, check_url, normalized
from router.errors import BadRequest, Conflict, Forbidden, NoSuchWorker, shown
from router.fleet.factory import new_instance
from router.fleet.health import HealthWatch
from router.instances.instance import Instance, Role
from router.instances.registry import Registry

logger = logging.getLogger(__name__)

# By sglang_router's names and this project's.
_ROLES = {"regular": Role.COLOCATED, **{role.value: role for role in Role}}


class Worker(NamedTuple):
    """An instance to add. `api_key`: what it asks for; None if whoever adds it did not say."""

    url: str
    role: Role
    bootstrap_port: int | None = None
    api_key: str | None = None


class Workers:
    """Adds instances to the registry, and removes them when the last of their requests has ended."""

    def __init__(
        self,
        registry: Registry,
        watch: HealthWatch,
        config: RouterConfig,
        on_removed: Callable[[Instance], None] = lambda _: None,
    ) -> None:
        self._on_removed = on_removed
        self._registry = registry
        self._watch = watch
        self._config = config
        self._leaving: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        for task in self._leaving:
            task.cancel()
        await asyncio.gather(*self._leaving, return_exceptions=True)

    async def add(self, worker: Worker) -> Instance:
        """Adds and probes it; it may be down. Its health is watched from then on.

        Raises Conflict and Forbidden.
        """
        config = self._config
        if config.worker_api_key and not (config.admin_api_key or config.api_key):
            raise Forbidden(
                "this router keeps its instances' key from clients, and asks nobody for a key of its own, so "
                "nobody adds instances: give it an --admin-api-key"
            )
        if (known := self._named(worker.url)) is not None:
            state = f"is leaving, with {known.in_flight} requests" if known.leaving else "is here already"
            raise Conflict(f"{known} {state}: an instance has one role and one entry")
        url, role, bootstrap_port, api_key = worker
        if api_key is None:
            # Without an admin key any client may have named it.
            api_key = config.worker_api_key if config.admin_api_key else ""
        instance = new_instance(config, url, role, bootstrap_port, api_key=api_key)
        self._registry.add(instance)
        self._watch.add(instance)
        logger.info("%s was added", instance)
        await self._watch.probe(instance)
        return instance

    def remove(self, name: str) -> Instance:
        """It gets no new requests, and is removed when its own have ended. Raises NoSuchWorker."""
        instance = self.named(name)
        if instance.leaving:
            return instance
        self._registry.leave(instance)
        if instance.idle.is_set():
            self._remove(instance)
        else:
            task = asyncio.create_task(self._drain(instance))
            self._leaving.add(task)
            task.add_done_callback(self._leaving.discard)
        return instance

    def named(self, name: str) -> Instance:
        """By id or URL. Raises NoSuchWorker."""
        if (instance := self._named(normalized(name))) is None:
            raise NoSuchWorker(
                f"{name!r:.200} is neither the id nor the URL of a worker here; see GET /workers"
            )
        return instance

    def _named(self, name: str) -> Instance | None:
        instances = self._registry.instances
        return next((instance for instance in instances if name in (instance.url, instance.id)), None)

    async def _drain(self, instance: Instance) -> None:
        try:
            async with asyncio.timeout(self._config.request_timeout_secs):
                await instance.idle.wait()
        except TimeoutError:
            logger.warning("%s still has %d requests, which go on", instance, instance.in_flight)
        self._remove(instance)

    def _remove(self, instance: Instance) -> None:
        self._registry.remove(instance)
        self._on_removed(instance)
        logger.info("%s was removed", instance)


def worker_of(fields: Any) -> Worker:
    """The instance to add, from the fields of a client's JSON or query. Raises BadRequest."""
    if not isinstance(fields, dict) or not isinstance(fields.get("url"), str):
        raise BadRequest('an instance is added as {"url": "http://HOST:PORT", "worker_type": "regular"}')
    kind = "regular" if fields.get("worker_type") in (None, "") else fields["worker_type"]
    if not isinstance(kind, str) or kind not in _ROLES:
        raise BadRequest(f"worker_type {shown(kind)} is unknown; known: {', '.join(_ROLES)}")
    url, port = normalized(fields["url"]), _port(fields.get("bootstrap_port"))
    try:
        check_url(url)
        check_port("bootstrap_port", port)
    except ConfigError as error:
        raise BadRequest(str(error)) from None
    return Worker(url, _ROLES[kind], port if kind == Role.PREFILL else None, _key(fields.get("api_key")))


def parsed(raw: bytes) -> Any:
    try:
        return orjson.loads(raw)
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"the body is no JSON: {error}") from None


def _key(given: Any) -> str | None:
    if given is None or given == "":
        return None
    try:
        # Not quoted: it may be a key with a letter too many.
        return checked_key(given) if isinstance(given, str) else checked_key("")
    except ValueError as error:
        raise BadRequest(f"api_key: {error}") from None


def _port(given: Any) -> int | None:
    if given is None or given == "none":
        return None
    digits = given if isinstance(given, str) else str(given) if type(given) is int else ""
    if not digits.isdecimal():
        raise BadRequest(f"bootstrap_port {shown(given)}: a number, or none")
    return int(digits[:9])
