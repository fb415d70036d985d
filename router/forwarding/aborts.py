"""What nobody waits for any more is stopped by name.

Closing the connection alone is not enough: SGLang looks for that every 4 s, unless it is streaming already.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Mapping

import aiohttp
import orjson
from multidict import CIMultiDict

from router.errors import JSON_HEADERS
from router.instances.instance import Instance

logger = logging.getLogger(__name__)

_DEADLINE_SECS = 5.0
# SGLang knows a request by name before its scheduler does. An abort that overtakes it there is lost, and with
# it every later one of that name.
_EARLY_SECS = 0.5
# At the end an instance that hangs must not keep the router from ending.
_LAST_SECS = 1.0
_AT_ONCE = 64


class Aborts:
    """Posts `/abort_request` in the background. A failed one is forgotten: the connection is closed too."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session
        self._turns = asyncio.Semaphore(_AT_ONCE)
        self._running: dict[asyncio.Task[None], str] = {}

    def send(self, instance: Instance, rid: str, headers: Mapping[str, str], begun: float) -> None:
        """Abort request `rid`, sent at `begun` (the loop's clock) with these headers. Returns at once."""
        if not instance.healthy:
            return
        task = asyncio.create_task(self._post(instance, rid, headers, begun))
        self._running[task] = rid
        task.add_done_callback(self._running.pop)

    async def sent(self, rids: Collection[str]) -> None:
        """Returns when no abort of these is on its way: what comes later under the name is not meant."""
        if under_way := [task for task, rid in self._running.items() if rid in rids]:
            await asyncio.wait(under_way)

    async def close(self) -> None:
        if self._running:
            _, late = await asyncio.wait(self._running, timeout=_LAST_SECS)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    async def _post(self, instance: Instance, rid: str, headers: Mapping[str, str], begun: float) -> None:
        await asyncio.sleep(begun + _EARLY_SECS - asyncio.get_running_loop().time())
        body = orjson.dumps({"rid": rid})
        sent = CIMultiDict(headers)
        sent.update(JSON_HEADERS)
        sent["Content-Length"] = str(len(body))
        try:
            async with asyncio.timeout(_DEADLINE_SECS), self._turns:
                url = instance.url + "/abort_request"
                async with self._session.post(url, data=body, headers=sent) as response:
                    await response.release()
        except (aiohttp.ClientError, OSError) as error:
            logger.debug("%s was not told to abort %s: %r", instance, rid, error)
