"""What the router decided, would decide, and measures."""

from __future__ import annotations

from aiohttp import web

from router.errors import BadRequest
from router.http.messages import json_response, read_request
from router.http.services import SERVICES
from router.protocol import body


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
    path = body.generation_path(parsed.fields)
    placement = await request.app[SERVICES].scheduler.explain(parsed.fields, path, len(raw))
    return json_response(placement.decision.describe())


async def metrics(request: web.Request) -> web.Response:
    return await request.app[SERVICES].metrics.answer(request)
