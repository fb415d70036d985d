"""Questions that every instance answers for itself."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any

import aiohttp
import orjson

from router.config.settings import RouterConfig
from router.errors import JSON_HEADERS, NoInstance, error_fields
from router.fleet.loads import summed_up
from router.fleet.reply import Reply
from router.instances.instance import Instance, Role
from router.instances.registry import Registry
from router.protocol import headers
from router.protocol.answer import Answer, AnswerTooLarge, describe_error, read_body
from router.protocol.redaction import without_secrets

_ANSWER_LIMIT = 16 << 20


class Fanout:
    def __init__(self, registry: Registry, session: aiohttp.ClientSession, config: RouterConfig) -> None:
        self._registry = registry
        self._session = session
        self._credentials = config.passes_credentials
        self._timeout = aiohttp.ClientTimeout(
            total=config.admin_timeout_secs, connect=config.connect_timeout_secs
        )

    async def server_info(self, given: Mapping[str, str]) -> dict[str, Any]:
        """By role, each instance's own /server_info with its URL, or its URL and an error.

        Beside the roles, as one server would tell it, what all who answered have in common.
        """
        result: dict[str, list[dict[str, Any]]] = {role.value: [] for role in Role}
        told = []
        for reply in await self._ask(self._registry.instances, "GET", "/server_info", given):
            info = reply.parsed()
            entry = {"error": reply.complaint} if info is None else without_secrets(info)
            result[reply.instance.role.value].append({**entry, "url": reply.instance.url})
            told += [] if info is None else [entry]
        return {**_in_common(told), **result}

    async def flush_cache(self, target: str, given: Mapping[str, str]) -> tuple[int, dict[str, Any]]:
        """The worst status (200 if all of them flushed), and what each instance said."""
        replies = await self._ask(self._everybody(), "POST", target, given)
        for reply in replies:
            if reply.status < 400:
                reply.instance.bump_cache_epoch()
        worst = max(reply.status for reply in replies)
        return worst, {"success": worst < 400, "instances": [reply.report() for reply in replies]}

    async def abort_request(self, target: str, given: Mapping[str, str], body: bytes) -> Answer:
        """An instance's own answer where all agree; else the worst status, and what each said.

        One that was down before and says nothing has nothing left to abort, and does not count.
        """
        everybody = self._everybody()
        expected = {one for one in everybody if one.healthy}
        replies = await self._ask(everybody, "POST", target, given, body)
        counted = [one for one in replies if one.heard or one.instance in expected] or replies
        worst = max(counted, key=lambda reply: reply.status)
        if worst.heard and all(reply.status == worst.status for reply in counted):
            return _as_it_came(worst)
        message = f"{worst.instance} did not abort: {worst.complaint}"
        report = {
            "error": error_fields(worst.status, message, "instance_failed"),
            "instances": [reply.report() for reply in replies],
        }
        return Answer(worst.status, JSON_HEADERS, orjson.dumps(report))

    async def loads(self, target: str, given: Mapping[str, str]) -> Answer:
        """The instances' loads as one server's, and each one's own. Those that are down are not asked.

        Where none tells its load, the answer is an instance's own refusal. Raises NoInstance if all are down.
        """
        asked = [one for one in self._registry.instances if one.healthy]
        replies = await self._ask(asked, "GET", target, given)
        if not replies:
            raise NoInstance(self._registry.unservable() or "no healthy instance")
        told = {reply.instance: answer for reply in replies if (answer := reply.parsed()) is not None}
        if not told:
            return _as_it_came(max(replies, key=lambda reply: reply.heard))
        complaints = {reply.instance: reply.complaint for reply in replies}
        entries = []
        for one in self._registry.instances:
            own = told.get(one) or {"error": complaints.get(one, one.trouble)}
            entries.append({**own, "url": one.url, "role": one.role.value})
        return Answer(
            200, JSON_HEADERS, orjson.dumps({**summed_up(list(told.values())), "instances": entries})
        )

    def _everybody(self) -> list[Instance]:
        if not self._registry.instances:
            raise NoInstance("there are no instances; POST /workers adds one")
        return self._registry.instances

    async def _ask(
        self,
        instances: Iterable[Instance],
        method: str,
        target: str,
        given: Mapping[str, str],
        body: bytes = b"",
    ) -> list[Reply]:
        forwarded = headers.to_instance(given, credentials=self._credentials)
        return await asyncio.gather(*(self._one(one, method, target, forwarded, body) for one in instances))

    async def _one(
        self, instance: Instance, method: str, target: str, forwarded: Mapping[str, str], body: bytes
    ) -> Reply:
        try:
            async with self._session.request(
                method,
                instance.url + target,
                headers=forwarded,
                data=body or None,
                timeout=self._timeout,
                allow_redirects=False,
            ) as response:
                answer = await read_body(response, _ANSWER_LIMIT)
                return Reply(instance, response.status, response.headers, answer)
        except (aiohttp.ClientError, OSError, AnswerTooLarge) as error:
            return Reply(instance, 502, {}, describe_error(error).encode(), heard=False)


def _in_common(infos: list[dict[str, Any]]) -> dict[str, Any]:
    first = infos[0] if infos else {}
    return {
        name: value
        for name, value in first.items()
        if all(name in info and info[name] == value for info in infos)
    }


def _as_it_came(reply: Reply) -> Answer:
    return Answer(reply.status, headers.to_client(reply.headers), reply.body)
