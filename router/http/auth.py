"""API keys: what clients present to the router, and what that opens."""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from router.config.settings import RouterConfig
from router.errors import Forbidden, Unauthorized
from router.http.endpoint import Access, Endpoint
from router.http.target import endpoint_of
from router.tenants.directory import Tenants
from router.tenants.tenant import Tenant


class Principal(NamedTuple):
    """Who asks, as far as the key says: `access` is the most that it opens, `tenant` whose it is."""

    access: Access
    tenant: Tenant | None = None

    @property
    def administers(self) -> bool:
        return self.access is Access.ADMIN


CALLER = web.RequestKey("CALLER", Principal)
"""Whose key the request presents; set before any handler runs."""


class Keys:
    """The keys that open the router.

    Without an admin key whoever may ask at all administers, as at sglang_router. Without a key for clients
    everybody is a client, as at SGLang's server, unless there are tenants.
    """

    def __init__(self, config: RouterConfig, tenants: Tenants | None = None) -> None:
        self._admin = config.admin_api_key
        self._client = config.api_key
        self._tenants = tenants
        if self._client or tenants is not None:
            self._nobody = Access.METRICS
        else:
            self._nobody = Access.CLIENT if self._admin else Access.ADMIN

    def caller(self, presented: str) -> Principal:
        """Who presents this key; "" for none."""
        if _same(presented, self._admin):
            return Principal(Access.ADMIN)
        if _same(presented, self._client):
            return Principal(Access.CLIENT if self._admin else Access.ADMIN)
        if self._tenants is not None and (tenant := self._tenants.of(presented)) is not None:
            return Principal(Access.TENANT, tenant)
        return Principal(self._nobody)


def identified(keys: Keys, endpoints: Iterable[Endpoint], *, metrics: Access) -> Middleware:
    """Sets CALLER. Refuses who may not ask: 401 without a key that is known here, 403 with one.

    `metrics`: what Access.METRICS takes. Unknown paths take a client's key.
    """
    listed = {(method, each.canonical): each.access for each in endpoints for method in each.methods}
    needed = {which: metrics if access is Access.METRICS else access for which, access in listed.items()}
    nobody = keys.caller("")

    @web.middleware
    async def identify(request: web.Request, handler: Handler) -> web.StreamResponse:
        caller = request[CALLER] = keys.caller(presented_key(request))
        access = _needed(request, needed)
        if caller.access < access:
            if caller == nobody:
                raise Unauthorized("this router asks for its API key, as `Authorization: Bearer KEY`")
            raise Forbidden(f"{request.method} {endpoint_of(request)} takes the router's admin key")
        return await handler(request)

    return identify


def presented_key(request: web.Request) -> str:
    scheme, _, given = request.headers.get("Authorization", "").partition(" ")
    return given if scheme.lower() == "bearer" else ""


def _needed(request: web.Request, needed: Mapping[tuple[str, str], Access]) -> Access:
    endpoint = endpoint_of(request)
    if endpoint is None:
        return Access.CLIENT
    # A browser's OPTIONS carries no key, and what is answered to HEAD is answered to GET.
    if request.method == "OPTIONS":
        return Access.PUBLIC
    return needed.get(("GET" if request.method == "HEAD" else request.method, endpoint), Access.ADMIN)


def _same(given: str, key: str) -> bool:
    return bool(key) and hmac.compare_digest(_bytes(given), _bytes(key))


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
