"""What a tenant may ask, and how many at once."""

from __future__ import annotations

from collections.abc import Iterable

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from router.errors import Failure, Forbidden
from router.forwarding.record import TENANT
from router.http.auth import CALLER
from router.http.endpoint import Access, AnsweredBy, Endpoint
from router.http.target import endpoint_of
from router.tenants.requests import SALTED_PATHS

_GENERATES = (AnsweredBy.PAIR, AnsweredBy.COLOCATED)
# A tenant that has as many requests in flight as it may must be able to end them.
_UNCOUNTED = "/abort_request"


def kept_apart(endpoints: Iterable[Endpoint]) -> Middleware:
    """Sets TENANT, and counts the tenant's requests. What it may not ask gets 403, one too many 429.

    Comes behind what sets CALLER. Names in failures are the client's own again.
    """
    unsalted, public = set(), set()
    for each in endpoints:
        if each.answered_by in _GENERATES and each.path not in SALTED_PATHS:
            unsalted.add(each.canonical)
        if each.access < Access.CLIENT:
            public.add(each.canonical)

    @web.middleware
    async def keep_apart(request: web.Request, handler: Handler) -> web.StreamResponse:
        tenant, endpoint = request[CALLER].tenant, endpoint_of(request)
        if tenant is None or endpoint in public:
            return await handler(request)
        if endpoint in unsalted:
            raise Forbidden(
                f"{endpoint} is not for tenants: SGLang takes no cache_salt there, so what is cached "
                "would be everybody's; use /v1/chat/completions"
            )
        request[TENANT] = tenant
        try:
            if endpoint == _UNCOUNTED:
                return await handler(request)
            with tenant.quota.request():
                return await handler(request)
        except Failure as failure:
            failure.body = tenant.unscoped(failure.body)
            raise

    return keep_apart
