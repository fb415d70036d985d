"""Probes instances, and keeps their `healthy` up to date."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from dataclasses import replace

import aiohttp
import orjson

from router.config.settings import RouterConfig
from router.instances import compatibility
from router.instances.client import InstanceClient, Redirected
from router.instances.instance import Instance
from router.instances.registry import Registry
from router.instances.server_info import ServerInfo, parse_server_info
from router.prompt.tokenizer import fingerprint
from router.protocol.answer import describe_error, is_own_lack, read_body

logger = logging.getLogger(__name__)

_ANSWER_LIMIT = 1 << 20
_REFUSED_KEY = (401, 403)


class HealthWatch:
    """Probes each instance at an interval, and at once when a request found it broken.

    An answer below 500 counts as healthy, unless it refuses the router's own key. Such a refusal, and a
    refused or reset connection, take the instance down at once. Timeouts and answers from 500 on must repeat
    `health_failure_threshold` times, since a busy server may be slow to answer.
    """

    def __init__(self, registry: Registry, client: InstanceClient, config: RouterConfig) -> None:
        self._registry = registry
        self._client = client
        self._config = config
        self._timeout = aiohttp.ClientTimeout(total=config.health_check_timeout_secs)
        self._misses: Counter[Instance] = Counter()
        self._added: asyncio.Queue[Instance] = asyncio.Queue()
        for instance in registry.instances:
            self.add(instance)

    def add(self, instance: Instance) -> None:
        """Probe it too, as long as it is in the registry."""
        self._added.put_nowait(instance)

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            while True:
                group.create_task(self._watch(await self._added.get()))

    async def probe_all(self) -> None:
        await asyncio.gather(*(self.probe(instance) for instance in self._registry.instances))

    async def probe(self, instance: Instance) -> None:
        instance.probe_requested.clear()
        url = instance.url + self._config.health_check_endpoint
        try:
            async with self._client.request(
                instance, "GET", self._config.health_check_endpoint, timeout=self._timeout
            ) as response:
                await read_body(response, _ANSWER_LIMIT)
        except TimeoutError:
            self._miss(instance, f"no answer to {url} within {self._config.health_check_timeout_secs:g} s")
        except (aiohttp.ClientError, OSError, ValueError) as error:
            if is_own_lack(error):
                # Requests that fail for that are counted; a line for each instance would be a flood.
                logger.debug("%s was not probed: %s", instance, describe_error(error))
                return
            refused = isinstance(error, aiohttp.ClientConnectorError) and isinstance(
                error.os_error, ConnectionRefusedError
            )
            (instance.gone if refused else instance.down)(describe_error(error))
        else:
            if response.status >= 500:
                self._miss(instance, f"{url} answers {response.status}")
            elif response.status in _REFUSED_KEY and not self._passes_credentials(instance):
                instance.down(f"{url} answers {response.status}: it asks for {_other_key(instance)}")
            else:
                self._misses[instance] = 0
                # Without its server_info an instance would be taken for a stock server.
                if instance.server_info is None or instance.recheck_requested:
                    try:
                        await self._learn(instance)
                    except Redirected as error:
                        instance.down(describe_error(error))
                        return
                # If it failed a request meanwhile, it is probed again at once.
                if not instance.probe_requested.is_set():
                    instance.up()

    async def _learn(self, instance: Instance) -> None:
        """Reads its /server_info. An instance too busy to answer is asked again at the next probe.

        Raises Redirected.
        """
        try:
            async with self._client.request(
                instance, "GET", "/server_info", timeout=self._timeout
            ) as response:
                info = orjson.loads(await read_body(response, _ANSWER_LIMIT))
        except ValueError:
            info = None
        except Redirected:
            raise
        except (aiohttp.ClientError, OSError):
            return
        if response.status >= 500:
            return
        instance.recheck_done()
        reported = parse_server_info(info)
        instance.learn(reported)
        fuller = await self._with_fingerprint(reported)
        if instance.server_info is reported:
            instance.learn(fuller)
            compatibility.warn(instance, self._registry.instances)

    async def _with_fingerprint(self, server_info: ServerInfo) -> ServerInfo:
        """With the digest of the tokenizer that it names, if it reports none and the files are here too."""
        known = server_info.compatibility
        if known.tokenizer is not None or not server_info.tokenizer:
            return server_info
        try:
            async with asyncio.timeout(self._config.health_check_timeout_secs):
                tokenizer, template = await asyncio.to_thread(fingerprint, server_info.tokenizer)
        except TimeoutError:
            return server_info
        template = known.template or template
        return replace(server_info, compatibility=replace(known, tokenizer=tokenizer, template=template))

    def _passes_credentials(self, instance: Instance) -> bool:
        return self._config.passes_credentials and not instance.api_key

    def _miss(self, instance: Instance, reason: str) -> None:
        self._misses[instance] += 1
        if not instance.healthy or self._misses[instance] >= self._config.health_failure_threshold:
            instance.down(reason)

    async def _watch(self, instance: Instance) -> None:
        while True:
            try:
                async with asyncio.timeout(self._config.health_check_interval_secs):
                    await instance.probe_requested.wait()
            except TimeoutError:
                pass
            if instance not in self._registry.instances:
                break
            await self.probe(instance)
        del self._misses[instance]


def _other_key(instance: Instance) -> str:
    if instance.api_key:
        return "another key: --worker-api-key, or the api_key that POST /workers named"
    return "a key: name it as api_key where you add it, with POST /workers, or give a --worker-api-key"
