"""What the router does for each endpoint of its list."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any

import orjson
from aiohttp import web
from aiohttp.typedefs import Handler

from router.config.settings import RouterConfig
from router.errors import JSON_HEADERS, BadRequest, ClientSilent, NoInstance, PayloadTooLarge
from router.fleet.fanout import Fanout
from router.fleet.workers import Workers, parsed, worker_of
from router.forwarding.forwarder import Front
from router.http.endpoints import ENDPOINTS, Endpoint, Who
from router.http.generate_probe import GenerateProbe
from router.http.openapi import document
from router.http.response import deliver
from router.instances import compatibility
from router.instances.instance import Instance, Role
from router.instances.registry import Registry
from router.kv_events import Feeds
from router.metrics import Metrics
from router.protocol import body
from router.protocol.answer import Answer
from router.scheduling.scheduler import Scheduler

# A request, its body, and why no pair can answer it.
Asked = Callable[[web.Request, bytes, str], AbstractAsyncContextManager[Answer]]
_COUNTED = {"prefill": Role.PREFILL, "decode": Role.DECODE, "regular": Role.COLOCATED}


@dataclass(frozen=True)
class Handlers:
    """Handlers over what they need; one object for one running router."""

    config: RouterConfig
    registry: Registry
    routing: Scheduler
    front: Front
    fanout: Fanout
    canary: GenerateProbe
    workers: Workers
    feeds: Feeds | None
    metrics: Metrics

    def routes(self) -> list[web.RouteDef]:
        served = [
            _route(method, one, self._handler(one, method)) for one in ENDPOINTS for method in one.methods
        ]
        # Browsers ask first whether they may; what SGLang allows is SGLang's to say.
        paths = dict.fromkeys(one.path for one in ENDPOINTS)
        return [*served, *(web.options(path, self.anyone) for path in paths)]

    def _handler(self, one: Endpoint, method: str) -> Handler:
        match one.who:
            case Who.PAIR:
                return self.generate
            case Who.ANYONE:
                return self.anyone
            case Who.COLOCATED:
                return partial(self._unpairable, self.front.colocated, one.pd_unsupported_reason)
            case Who.HOLDER:
                return partial(self._unpairable, self.front.holder, one.pd_unsupported_reason)
        named = {
            "/abort_request": self.abort_request,
            "/flush_cache": self.flush_cache,
            "/server_info": self.server_info,
            "/get_server_info": self.server_info,
            "/v1/loads": self.loads,
            "/health": self.health,
            "/ready": self.health,
            "/readiness": self.health,
            "/ping": self.health,
            "/liveness": self.liveness,
            "/health_generate": self.health_generate,
            "/workers": self.add_worker if method == "POST" else self.list_all,
            "/workers/{worker:.+}": self.remove_worker if method == "DELETE" else self.worker,
            "/add_worker": self.add_worker_by_query,
            "/remove_worker": self.remove_worker_by_query,
            "/decisions": self.decisions,
            "/explain": self.explain,
            "/list_workers": self.list_workers,
            "/metrics": self.metrics.answer,
            "/openapi.json": self.openapi,
        }
        return named[one.path]

    async def generate(self, request: web.Request) -> web.StreamResponse:
        raw = await self._body(request)
        async with self.front.generate(request, raw) as answer:
            return await self._deliver(request, answer)

    async def anyone(self, request: web.Request) -> web.StreamResponse:
        raw = await self._body(request)
        async with self.front.anyone(request, raw) as answer:
            return await self._deliver(request, answer)

    async def _unpairable(self, asked: Asked, why: str, request: web.Request) -> web.StreamResponse:
        raw = await self._body(request)
        async with asked(request, raw, why) as answer:
            return await self._deliver(request, answer)

    async def abort_request(self, request: web.Request) -> web.StreamResponse:
        raw = await self._body(request)
        self.front.aborted.hear(raw)
        return await self._deliver(
            request, await self.fanout.abort_request(request.path_qs, request.headers, raw)
        )

    async def flush_cache(self, request: web.Request) -> web.Response:
        status, report = await self.fanout.flush_cache(request.path_qs, request.headers)
        return _json(report, status)

    async def server_info(self, request: web.Request) -> web.Response:
        return _json(await self.fanout.server_info(request.headers))

    async def loads(self, request: web.Request) -> web.StreamResponse:
        if (wanted := request.query.get("format", "json")) != "json":
            raise BadRequest(
                f"format={wanted!r:.40}: loads are summed up as JSON only; ask an instance itself"
            )
        return await self._deliver(request, await self.fanout.loads(request.path_qs, request.headers))

    async def health(self, _: web.Request) -> web.Response:
        if reason := self.registry.unservable():
            raise NoInstance(reason)
        return _json({"status": "ok"})

    async def health_generate(self, request: web.Request) -> web.Response:
        await self.canary.run(request)
        return _json({"status": "ok"})

    async def liveness(self, _: web.Request) -> web.Response:
        return _json({"status": "ok"})

    async def list_all(self, _: web.Request) -> web.Response:
        incompatibilities = compatibility.by_instance(self.registry.instances)
        instances = [
            {**instance.describe(), "misfits": incompatibilities.get(instance, [])}
            for instance in self.registry.instances
        ]
        stats = {f"{kind}_count": len(self.registry.of(role)) for kind, role in _COUNTED.items()}
        listed = {"workers": instances, "total": len(instances), "stats": stats}
        feeds = {} if self.feeds is None else self.feeds.describe()
        return _json({**listed, "routing": self.routing.describe(), "feeds": feeds})

    async def worker(self, request: web.Request) -> web.Response:
        return _json(self.workers.named(request.match_info["worker"]).describe())

    async def add_worker(self, request: web.Request) -> web.Response:
        added = worker_of(parsed(await self._body(request)), self.config.worker_api_key)
        instance = await self.workers.add(added)
        told = _accepted(instance, f"added; {instance.unavailable_reason or 'it takes requests'}")
        location = f"/workers/{instance.id}"
        answer = _json(told | {"url": instance.url, "location": location}, 202)
        answer.headers["Location"] = location
        return answer

    async def remove_worker(self, request: web.Request) -> web.Response:
        return _json(self._removed(request.match_info["worker"]), 202)

    async def add_worker_by_query(self, request: web.Request) -> web.Response:
        instance = await self.workers.add(worker_of(dict(request.query), self.config.worker_api_key))
        return _json(_accepted(instance, f"added; {instance.unavailable_reason or 'it takes requests'}"))

    async def remove_worker_by_query(self, request: web.Request) -> web.Response:
        return _json(self._removed(request.query.get("url", "")))

    def _removed(self, name: str) -> dict[str, Any]:
        instance = self.workers.remove(name)
        return _accepted(instance, f"takes no new requests; {instance.in_flight} still run")

    async def decisions(self, request: web.Request) -> web.Response:
        asked = request.query.get("last", "20")
        if not asked.isdecimal() or not asked.isascii():
            raise BadRequest(f"last={asked!r:.40}: how many decisions, as a number")
        count = min(int(asked[:9]), self.config.decisions_kept)
        return _json({"decisions": [one.describe() for one in self.routing.decisions.last(count)]})

    async def explain(self, request: web.Request) -> web.Response:
        parsed = body.parse(raw := await self._body(request))
        if parsed is None:
            raise BadRequest("what is to be explained? Send the body of a generation request, a JSON object")
        path = body.generation_path(parsed.fields)
        placement = await self.routing.explain(parsed.fields, path, len(raw))
        return _json(placement.decision.describe())

    async def list_workers(self, _: web.Request) -> web.Response:
        return _json({"urls": [instance.url for instance in self.registry.instances]})

    async def openapi(self, _: web.Request) -> web.Response:
        return _json(document(keyed=bool(self.config.api_key)))

    async def _deliver(self, request: web.Request, answer: Answer) -> web.StreamResponse:
        return await deliver(request, answer, self.config.request_timeout_secs)

    async def _body(self, request: web.Request) -> bytes:
        try:
            async with asyncio.timeout(self.config.request_timeout_secs):
                return await request.read()
        except TimeoutError:
            raise ClientSilent("the request's body did not arrive in time (--request-timeout-secs)") from None
        except web.HTTPRequestEntityTooLarge:
            limit = self.config.max_payload_size
            raise PayloadTooLarge(f"the body is larger than {limit} bytes (--max-payload-size)") from None


def _route(method: str, one: Endpoint, handler: Handler) -> web.RouteDef:
    if method != "GET":
        return web.route(method, one.path, handler)
    # A HEAD must change nothing: none for what a POST does as well.
    return web.get(one.path, handler, allow_head=one.methods == ("GET",))


def _accepted(instance: Instance, message: str) -> dict[str, Any]:
    told = {"status": "accepted", "worker_id": instance.id, "message": f"{instance}: {message}"}
    return {**told, "worker": instance.describe()}


def _json(value: object, status: int = 200) -> web.Response:
    return web.Response(status=status, headers=JSON_HEADERS, body=orjson.dumps(value))
