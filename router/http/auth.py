"""API keys: what clients present to the router, and what the router presents to instances."""

from __future__ import annotations

import hmac
from collections.abc import Collection

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from router.errors import Unauthorized
from router.http.target import endpoint_of


def authorization(key: str) -> dict[str, str]:
    """The headers that present `key`; none without one."""
    return {"Authorization": f"Bearer {key}"} if key else {}


def require_key(key: str, public: Collection[str]) -> Middleware:
    """Refuses requests without `key` (401), but for the `public` endpoints and a browser's OPTIONS."""

    @web.middleware
    async def check_key(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.method != "OPTIONS" and endpoint_of(request) not in public and not _presents(request, key):
            raise Unauthorized("this router asks for its API key, as `Authorization: Bearer KEY`")
        return await handler(request)

    return check_key


def _presents(request: web.Request, key: str) -> bool:
    scheme, _, given = request.headers.get("Authorization", "").partition(" ")
    return scheme.lower() == "bearer" and hmac.compare_digest(_bytes(given), _bytes(key))


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
