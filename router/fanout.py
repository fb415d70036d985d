"""Questions that every instance answers for itself."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import aiohttp
import orjson

from router.config import RouterConfig
from router.instance import Instance, Role
from router.leg import AnswerTooLarge, read, trouble
from router.registry import Registry

_ANSWER_LIMIT = 16 << 20


class Fanout:
    def __init__(self, registry: Registry, session: aiohttp.ClientSession, config: RouterConfig) -> None:
        self._registry = registry
        self._session = session
        self._timeout = aiohttp.ClientTimeout(total=config.admin_timeout_secs)

    async def server_info(self, headers: Mapping[str, str]) -> dict[str, list[dict[str, Any]]]:
        """By role, each instance's own /server_info with its URL, or its URL and an error."""
        entries = await asyncio.gather(*(self._info(one, headers) for one in self._registry.instances))
        result: dict[str, list[dict[str, Any]]] = {role.value: [] for role in Role}
        for instance, entry in zip(self._registry.instances, entries, strict=True):
            result[instance.role.value].append(entry)
        return result

    async def flush_cache(self, target: str, headers: Mapping[str, str]) -> tuple[int, dict[str, Any]]:
        """The worst status (200 if all of them flushed), and what each instance said."""
        results = await asyncio.gather(
            *(self._flush(one, target, headers) for one in self._registry.instances)
        )
        worst = max(entry["status"] for entry in results)
        return worst, {"success": worst < 400, "instances": results}

    async def _info(self, instance: Instance, headers: Mapping[str, str]) -> dict[str, Any]:
        try:
            status, body = await self._ask("GET", instance, "/server_info", headers)
            info = orjson.loads(body)
            if status >= 400 or not isinstance(info, dict):
                return {
                    "url": instance.url,
                    "error": f"answered {status}: {body[:200].decode(errors='replace')}",
                }
            return {**info, "url": instance.url}
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return {"url": instance.url, "error": trouble(error)}

    async def _flush(self, instance: Instance, target: str, headers: Mapping[str, str]) -> dict[str, Any]:
        try:
            status, body = await self._ask("POST", instance, target, headers)
            message = body[:1000].decode(errors="replace").strip()
        except (aiohttp.ClientError, OSError, AnswerTooLarge) as error:
            status, message = 502, trouble(error)
        return {"url": instance.url, "role": instance.role.value, "status": status, "message": message}

    async def _ask(
        self, method: str, instance: Instance, target: str, headers: Mapping[str, str]
    ) -> tuple[int, bytes]:
        url = instance.url + target
        async with self._session.request(method, url, headers=headers, timeout=self._timeout) as response:
            return response.status, await read(response, _ANSWER_LIMIT)
