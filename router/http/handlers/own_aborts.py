"""Aborts by tenants: of their own requests, and of no others."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any

from aiohttp import web

from router.forwarding.record import TARGET, client_headers
from router.http.response import deliver
from router.http.services import SERVICES
from router.protocol import body
from router.protocol.answer import UpstreamAnswer
from router.tenants.requests import rewritten_abort
from router.tenants.tenant import Tenant

# Each goes to all instances.
_AT_ONCE = 16


async def abort_own(request: web.Request, raw: bytes, tenant: Tenant) -> web.StreamResponse:
    """As instances answer; of several aborts, the worst answer.

    SGLang aborts by name, or everybody's. All of a tenant's own are those that run through this router.
    """
    services = request.app[SERVICES]
    named = rewritten_abort(body.parse(raw), tenant)
    aborts = [named] if named else [{"rid": name} for name in services.forwarder.names.owned(tenant.owns)]
    answer = UpstreamAnswer(200, {}, b"")
    for start in range(0, len(aborts), _AT_ONCE):
        sent = (_abort(request, fields) for fields in aborts[start : start + _AT_ONCE])
        answer = max(answer, *await asyncio.gather(*sent), key=lambda answer: answer.status)
    answer = replace(answer, body=tenant.unscoped(answer.body))
    return await deliver(request, answer)


async def _abort(request: web.Request, fields: dict[str, Any]) -> UpstreamAnswer:
    services = request.app[SERVICES]
    # orjson writes no lone surrogates, which a client's name may have.
    raw = json.dumps(fields).encode()
    services.forwarder.client_aborts.record(raw)
    return await services.fanout.abort_request(str(request[TARGET]), client_headers(request), raw)
