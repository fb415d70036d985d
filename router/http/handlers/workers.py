"""The instances: listed, added and removed, with sglang_router's calls."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from router.fleet.workers import parsed, worker_of
from router.http.messages import json_response, read_request
from router.http.services import SERVICES, Services
from router.instances import compatibility
from router.instances.instance import Instance, Role

_COUNTED = {"prefill": Role.PREFILL, "decode": Role.DECODE, "regular": Role.COLOCATED}


async def list_workers(request: web.Request) -> web.Response:
    services = request.app[SERVICES]
    registry, feeds = services.registry, services.feeds
    incompatibilities = compatibility.by_instance(registry.instances)
    workers = [
        {**instance.describe(), "incompatibilities": incompatibilities.get(instance, [])}
        for instance in registry.instances
    ]
    stats = {f"{kind}_count": len(registry.of(role)) for kind, role in _COUNTED.items()}
    return json_response(
        {
            "workers": workers,
            "total": len(workers),
            "stats": stats,
            "routing": services.scheduler.describe(),
            "feeds": {} if feeds is None else feeds.describe(),
        }
    )


async def list_urls(request: web.Request) -> web.Response:
    registry = request.app[SERVICES].registry
    return json_response({"urls": [instance.url for instance in registry.instances]})


async def worker(request: web.Request) -> web.Response:
    workers = request.app[SERVICES].workers
    return json_response(workers.named(request.match_info["worker"]).describe())


async def add(request: web.Request) -> web.Response:
    fields = parsed(await read_request(request))
    instance, answer = await _added(request.app[SERVICES], fields)
    location = f"/workers/{instance.id}"
    response = json_response(answer | {"url": instance.url, "location": location}, 202)
    response.headers["Location"] = location
    return response


async def add_by_query(request: web.Request) -> web.Response:
    _, answer = await _added(request.app[SERVICES], dict(request.query))
    return json_response(answer)


async def remove(request: web.Request) -> web.Response:
    return json_response(_removed(request.app[SERVICES], request.match_info["worker"]), 202)


async def remove_by_query(request: web.Request) -> web.Response:
    return json_response(_removed(request.app[SERVICES], request.query.get("url", "")))


async def _added(services: Services, fields: Any) -> tuple[Instance, dict[str, Any]]:
    instance = await services.workers.add(worker_of(fields))
    return instance, _accepted(instance, f"added; {instance.unavailable_reason or 'it takes requests'}")


def _removed(services: Services, name: str) -> dict[str, Any]:
    instance = services.workers.remove(name)
    return _accepted(instance, f"takes no new requests; {instance.in_flight} still run")


def _accepted(instance: Instance, message: str) -> dict[str, Any]:
    return {
        "status": "accepted",
        "worker_id": instance.id,
        "message": f"{instance}: {message}",
        "worker": instance.describe(),
    }
