"""What the router decided, would decide, and measures."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from router.errors import BadRequest
from router.forwarding.record import TENANT
from router.http.messages import json_response, read_request
from router.http.services import SERVICES
from router.protocol import body
from router.scheduling.scheduler import Scheduler
from router.tenants.requests import rewritten
from router.tenants.tenant import Tenant


async def decisions(request: web.Request) -> web.Response:
    services, last = request.app[SERVICES], request.query.get("last", "20")
    if not last.isdecimal() or not last.isascii():
        raise BadRequest(f"last={last!r:.40}: how many decisions, as a number")
    count = min(int(last[:9]), services.config.decisions_kept)
    latest = services.scheduler.decisions.last(count)
    return json_response({"decisions": [decision.describe() for decision in latest]})


async def explain(request: web.Request) -> web.Response:
    parsed = body.parse(raw := await read_request(request))
    if parsed is None:
        raise BadRequest("what is to be explained? Send the body of a generation request, a JSON object")
    path, scheduler = body.generation_path(parsed.fields), request.app[SERVICES].scheduler
    if (tenant := request.get(TENANT)) is not None:
        return json_response(await _explained_to(tenant, scheduler, parsed, path))
    placement = await scheduler.explain(parsed.fields, path, len(raw))
    return json_response(placement.decision.describe())


async def _explained_to(tenant: Tenant, scheduler: Scheduler, parsed: body.Body, path: str) -> dict[str, Any]:
    """How much of the prompt is cached in the tenant's own namespace. Loads and URLs would tell of others."""
    own = rewritten(parsed, path, tenant)

    async def admit(prompt_tokens: int) -> None:
        tenant.quota.check_prompt(prompt_tokens)

    decision = (await scheduler.explain(own.fields, path, len(parsed.raw), admit)).decision
    cached = max((cached.tokens for cached in decision.route.cached.values()), default=0)
    return {
        "path": path,
        "prompt_tokens": decision.prompt_tokens,
        "tokenised": decision.tokenised,
        "cached_tokens": cached if decision.tokenised else None,
    }


async def metrics(request: web.Request) -> web.Response:
    return await request.app[SERVICES].metrics.answer(request)
