"""API keys: the one that clients present here, the one that the router presents to instances."""

from __future__ import annotations

import hmac
from collections.abc import Collection
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from router.errors import Unauthorized

_SECRETS = frozenset({"api_key", "admin_api_key", "ssl_keyfile_password"})
_REDACTED = "<redacted>"


def bearer(key: str) -> dict[str, str]:
    """The headers that present `key`; none without one."""
    return {"Authorization": f"Bearer {key}"} if key else {}


def demanding(key: str, public: Collection[str]) -> Middleware:
    """Lets through who presents `key`, and everybody to the `public` paths and to a browser's OPTIONS."""

    @web.middleware
    async def demand_key(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.method != "OPTIONS" and request.path not in public and not _presents(request, key):
            raise Unauthorized("this router asks for its API key, as `Authorization: Bearer KEY`")
        return await handler(request)

    return demand_key


def _presents(request: web.Request, key: str) -> bool:
    scheme, _, given = request.headers.get("Authorization", "").partition(" ")
    return scheme.lower() == "bearer" and hmac.compare_digest(_bytes(given), _bytes(key))


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def without_secrets(value: Any) -> Any:
    """A /server_info with its keys blanked out: SGLang tells them, also within its launch command."""
    match value:
        case dict():
            told = [value[name] for name in _SECRETS & value.keys() if isinstance(value[name], str)]
            return {name: _blanked(name, part, told) for name, part in value.items()}
        case list():
            return [without_secrets(part) for part in value]
    return value


def _blanked(name: str, part: Any, told: list[str]) -> Any:
    if name in _SECRETS and part is not None:
        return _REDACTED
    if name == "launch_command" and isinstance(part, str):
        for secret in filter(None, told):
            part = part.replace(secret, _REDACTED)
    return without_secrets(part)
