"""Aborts by name: those that clients send, and those that the router sends for clients that have left.

Closing the connection alone is not enough: SGLang looks for that every 4 s, unless it is streaming already.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections import deque
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import aiohttp
from multidict import CIMultiDict

from router.errors import JSON_HEADERS
from router.instances.client import InstanceClient
from router.instances.instance import Instance
from router.protocol import body
from router.protocol.answer import AnswerTooLarge, read_body

logger = logging.getLogger(__name__)

_DEADLINE_SECS = 5.0
_TIMEOUT = aiohttp.ClientTimeout(total=_DEADLINE_SECS)
_ANSWER_LIMIT = 1 << 16
# SGLang knows a request by name before its scheduler does. An abort that overtakes it there is lost, and with
# it every later one of that name.
_EARLY_SECS = 0.5
# At the end an instance that hangs must not keep the router from ending.
_LAST_SECS = 1.0
_AT_ONCE = 64
_KEPT = 4096
_KEPT_CHARS = 256


class ClientAborts:
    """The latest aborts that came through the router: such requests must not be tried again.

    `count` grows with each.
    """

    def __init__(self) -> None:
        self.count = 0
        self._latest: deque[tuple[int, str]] = deque(maxlen=_KEPT)

    def record(self, raw: bytes) -> None:
        """The body of an `/abort_request`. What is no JSON object or names no text, instances refuse."""
        parsed = body.parse(raw)
        if parsed is None:
            return
        names = _named(parsed.fields)
        if not all(isinstance(name, str | None) for name in names):
            return
        self.count += 1
        for name in [""] if parsed.fields.get("abort_all") else names[:_KEPT]:
            # SGLang takes a name for all that begin with it.
            self._latest.append((self.count, (name or "")[:_KEPT_CHARS]))

    def any_since(self, count: int, rids: Iterable[str]) -> bool:
        """Whether one of `rids` was aborted since `count`."""
        if self.count == count:
            return False
        named = [name for number, name in self._latest if number > count]
        return "" in named or any(rid.startswith(name) for rid in rids for name in named)


def names_no_request(raw: bytes) -> bool:
    """Whether an `/abort_request` of this body may end everybody's requests.

    What the router cannot read counts too: an instance may read it. SGLang takes an empty name for all.
    """
    parsed = body.parse(raw)
    if parsed is None or parsed.fields.get("abort_all") not in (None, False):
        return True
    return not all(isinstance(name, str) and name for name in _named(parsed.fields))


def _named(fields: Mapping[str, Any]) -> list[Any]:
    rids = fields.get("rid")
    return rids if isinstance(rids, list) else [rids]


class AbortSender:
    """Posts `/abort_request` in the background. A failed one is forgotten: the connection is closed too."""

    def __init__(self, client: InstanceClient) -> None:
        self._client = client
        self._slots = asyncio.Semaphore(_AT_ONCE)
        self._running: dict[asyncio.Task[None], str] = {}

    def send(self, instance: Instance, rid: str, headers: Mapping[str, str], begun: float) -> None:
        """Abort request `rid`, sent at `begun` (the loop's clock) with these headers. Returns at once."""
        if not instance.healthy:
            return
        task = asyncio.create_task(self._post(instance, rid, headers, begun))
        self._running[task] = rid
        task.add_done_callback(self._running.pop)

    async def wait(self, rids: Collection[str]) -> None:
        """Returns when no abort of these is under way: it would hit the next request of that name."""
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
        # orjson writes no lone surrogates, which a client's name may have.
        sent_body = json.dumps({"rid": rid}).encode()
        sent = CIMultiDict(headers)
        sent.update(JSON_HEADERS)
        sent["Content-Length"] = str(len(sent_body))
        try:
            async with (
                asyncio.timeout(_DEADLINE_SECS),
                self._slots,
                self._client.request(
                    instance, "POST", "/abort_request", data=sent_body, headers=sent, timeout=_TIMEOUT
                ) as response,
            ):
                await read_body(response, _ANSWER_LIMIT)
        except (aiohttp.ClientError, OSError, AnswerTooLarge) as error:
            logger.debug("%s did not take the abort of %s: %r", instance, rid, error)
