"""A real request through the router, to know whether requests are served."""

from __future__ import annotations

import asyncio

import orjson
from aiohttp import web

from router.config.settings import RouterConfig
from router.errors import Failure, NoInstance
from router.forwarding.forwarder import Forwarder
from router.forwarding.record import RECORD, TARGET, RequestRecord, UpstreamTarget

# The second token is decode's own: the first one comes from prefill.
_BODY = orjson.dumps(
    {
        "text": "One, two, three,",
        "sampling_params": {"max_new_tokens": 2, "temperature": 0, "ignore_eos": True},
    }
)


class GenerateProbe:
    """One request at a time, for all clients that ask meanwhile: the path is open to everybody."""

    def __init__(self, forwarder: Forwarder, config: RouterConfig) -> None:
        self._forwarder = forwarder
        self._timeout_s = config.health_generate_timeout_secs
        self._running: asyncio.Task[None] | None = None

    async def run(self, request: web.Request) -> None:
        """Returns once a generated answer has come. Raises NoInstance, with the reason, if none does."""
        if self._running is None or self._running.done():
            self._running = asyncio.create_task(self._generate(request))
            self._running.add_done_callback(_seen)
        await asyncio.shield(self._running)

    async def close(self) -> None:
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)

    async def _generate(self, asking: web.Request) -> None:
        headers = {"Content-Type": "application/json", **_authorization(asking)}
        request = asking.clone(method="POST", headers=headers)
        request[TARGET] = UpstreamTarget("/generate")
        request[RECORD] = RequestRecord(asking[RECORD].request_id)
        try:
            async with asyncio.timeout(self._timeout_s):
                attempt = await self._forwarder.generate(request, _BODY)
                body = attempt.answer.body
                await attempt.close()
        except TimeoutError:
            raise NoInstance(f"a small request got no answer within {self._timeout_s:g} s") from None
        except Failure as failure:
            raise NoInstance(f"a small request failed: {failure}") from failure
        if b'"text"' not in body:
            raise NoInstance(f"a small request got {body[:200]!r} for an answer")


def _seen(task: asyncio.Task[None]) -> None:
    # The client may have left. asyncio would log a failure that was never read.
    if not task.cancelled():
        task.exception()


def _authorization(request: web.Request) -> dict[str, str]:
    given = request.headers.get("Authorization", "")
    # Bytes that are no text are no key.
    return {"Authorization": given} if given and given.isascii() else {}
