"""How the router speaks to instances: every request goes through here, whoever it is for."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import aiohttp
from multidict import CIMultiDict

from router.instances.instance import Instance
from router.protocol.tls import ClientTls

# SGLang closes idle connections after 5 s. The router closes them earlier: no request meets a closing one.
_KEEPALIVE_SECS = 2.0
_SHOWN_CHARS = 200


class Redirected(aiohttp.ClientError):
    """An instance points elsewhere. No instance does: whoever answers there chose where the router goes."""


class InstanceClient:
    """Sends requests to instances. Each gets its own key and no other's; no redirect is followed.

    `tls`: whom to believe at https:// URLs, and what to present there. Requests raise aiohttp's errors, and
    Redirected for an answer of 3xx.
    """

    def __init__(self, tls: ClientTls) -> None:
        self._tls = tls
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEPALIVE_SECS),
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            raise_for_status=_refuse_redirect,
        )

    async def __aenter__(self) -> InstanceClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    def request(
        self,
        instance: Instance,
        method: str,
        target: str,
        *,
        timeout: aiohttp.ClientTimeout,
        headers: Mapping[str, str] | None = None,
        data: Any = None,
    ) -> aiohttp.client._RequestContextManager:
        """To be awaited, or entered, for the response. `target`: path and query."""
        if instance.api_key:
            headers = CIMultiDict(headers or {})
            headers["Authorization"] = f"Bearer {instance.api_key}"
        return self._session.request(
            method,
            instance.url + target,
            headers=headers,
            data=data,
            timeout=timeout,
            allow_redirects=False,
            ssl=self._tls.context,
        )


async def _refuse_redirect(response: aiohttp.ClientResponse) -> None:
    if 300 <= response.status < HTTPStatus.BAD_REQUEST:
        response.close()
        where = response.headers.get("Location", "nowhere")
        raise Redirected(
            f"{response.url.path} answers {response.status}, a redirect to {where!r:.{_SHOWN_CHARS}}, which "
            "the router does not follow: is this an SGLang server?"
        )
