"""Requests that every instance answers for itself: sent to all at once, answers put together."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import aiohttp
import orjson

from router.config.settings import RouterConfig
from router.errors import JSON_HEADERS, NoInstance, error_fields
from router.fleet.loads import summed_up
from router.instances.client import InstanceClient
from router.instances.instance import Instance, Role
from router.instances.registry import Registry
from router.protocol.answer import AnswerTooLarge, UpstreamAnswer, describe_error, read_body
from router.protocol.headers import HeaderFilter, to_client
from router.protocol.redaction import without_secrets

_ANSWER_LIMIT = 16 << 20


@dataclass(frozen=True, slots=True)
class Reply:
    """One instance's answer; or, with `answered` false, a 502 whose body says why there is none."""

    instance: Instance
    status: int
    headers: Mapping[str, str]
    body: bytes
    answered: bool = True

    @property
    def message(self) -> str:
        return self.body[:1000].decode(errors="replace").strip()

    @property
    def error(self) -> str:
        return f"answered {self.status}: {self.message[:200]}" if self.answered else self.message

    def parsed(self) -> dict[str, Any] | None:
        """The JSON object that it is; None for a refusal, and for anything else."""
        if self.status >= HTTPStatus.BAD_REQUEST:
            return None
        try:
            value = orjson.loads(self.body)
        except ValueError:
            return None
        return value if isinstance(value, dict) else None

    def describe(self) -> dict[str, Any]:
        role = self.instance.role.value
        return {"url": self.instance.url, "role": role, "status": self.status, "message": self.message}


class Fanout:
    """Sends a request to all instances at once. `headers` are always the client's."""

    def __init__(self, registry: Registry, client: InstanceClient, config: RouterConfig) -> None:
        self._registry = registry
        self._client = client
        self._headers = HeaderFilter(credentials=config.passes_credentials, also=config.request_id_headers)
        self._timeout = aiohttp.ClientTimeout(
            total=config.admin_timeout_secs, connect=config.connect_timeout_secs
        )

    async def server_info(self, headers: Mapping[str, str]) -> dict[str, Any]:
        """By role, each instance's own /server_info with its URL, or its URL and an error.

        Beside the roles stands what all that answered have in common, as one server would give it.
        """
        by_role: dict[str, list[dict[str, Any]]] = {role.value: [] for role in Role}
        infos = []
        for reply in await self._send(self._registry.instances, "GET", "/server_info", headers):
            info = reply.parsed()
            entry = {"error": reply.error} if info is None else without_secrets(info)
            by_role[reply.instance.role.value].append({**entry, "url": reply.instance.url})
            infos += [] if info is None else [entry]
        return {**_in_common(infos), **by_role}

    async def flush_cache(self, target: str, headers: Mapping[str, str]) -> tuple[int, dict[str, Any]]:
        """The worst status (200 if all of them flushed), and what each instance answered."""
        replies = await self._send(self._all_instances(), "POST", target, headers)
        for reply in replies:
            if reply.status < 400:
                reply.instance.bump_cache_epoch()
        worst = max(reply.status for reply in replies)
        return worst, {"success": worst < 400, "instances": [reply.describe() for reply in replies]}

    async def abort_request(self, target: str, headers: Mapping[str, str], body: bytes) -> UpstreamAnswer:
        """An instance's own answer where all agree; else the worst status, and what each answered.

        An instance that was down before and does not answer has nothing left to abort, and does not count.
        """
        instances = self._all_instances()
        expected = {instance for instance in instances if instance.healthy}
        replies = await self._send(instances, "POST", target, headers, body)
        counted = [reply for reply in replies if reply.answered or reply.instance in expected] or replies
        worst = max(counted, key=lambda reply: reply.status)
        if worst.answered and all(reply.status == worst.status for reply in counted):
            return _unchanged(worst)
        message = f"{worst.instance} did not abort: {worst.error}"
        report = {
            "error": error_fields(worst.status, message, "instance_failed"),
            "instances": [reply.describe() for reply in replies],
        }
        return UpstreamAnswer(worst.status, JSON_HEADERS, orjson.dumps(report))

    async def loads(self, target: str, headers: Mapping[str, str]) -> UpstreamAnswer:
        """The instances' loads as one server's, and each one's own. Those that are down are not asked.

        Where no instance gives its load, the answer is one instance's refusal. Raises NoInstance if all are
        down.
        """
        healthy = [instance for instance in self._registry.instances if instance.healthy]
        replies = await self._send(healthy, "GET", target, headers)
        if not replies:
            raise NoInstance(self._registry.unservable() or "no healthy instance")
        loads = {reply.instance: load for reply in replies if (load := reply.parsed()) is not None}
        if not loads:
            return _unchanged(max(replies, key=lambda reply: reply.answered))
        errors = {reply.instance: reply.error for reply in replies}
        entries = []
        for instance in self._registry.instances:
            own = loads.get(instance) or {"error": errors.get(instance, instance.trouble)}
            entries.append({**own, "url": instance.url, "role": instance.role.value})
        total = {**summed_up(list(loads.values())), "instances": entries}
        return UpstreamAnswer(200, JSON_HEADERS, orjson.dumps(total))

    def _all_instances(self) -> list[Instance]:
        if not self._registry.instances:
            raise NoInstance("there are no instances; POST /workers adds one")
        return self._registry.instances

    async def _send(
        self,
        instances: Iterable[Instance],
        method: str,
        target: str,
        headers: Mapping[str, str],
        body: bytes = b"",
    ) -> list[Reply]:
        forwarded = self._headers.of(headers)
        return await asyncio.gather(
            *(self._send_to(instance, method, target, forwarded, body) for instance in instances)
        )

    async def _send_to(
        self, instance: Instance, method: str, target: str, forwarded: Mapping[str, str], body: bytes
    ) -> Reply:
        try:
            async with self._client.request(
                instance, method, target, headers=forwarded, data=body or None, timeout=self._timeout
            ) as response:
                answer = await read_body(response, _ANSWER_LIMIT)
                return Reply(instance, response.status, response.headers, answer)
        except (aiohttp.ClientError, OSError, AnswerTooLarge) as error:
            return Reply(instance, 502, {}, describe_error(error).encode(), answered=False)


def _in_common(infos: list[dict[str, Any]]) -> dict[str, Any]:
    first = infos[0] if infos else {}
    return {
        name: value
        for name, value in first.items()
        if all(name in info and info[name] == value for info in infos)
    }


def _unchanged(reply: Reply) -> UpstreamAnswer:
    return UpstreamAnswer(reply.status, to_client(reply.headers), reply.body)
