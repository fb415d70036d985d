"""One request on two instances: prefill and decode at the same time, and an end for both when one fails."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from router.forwarding.logprobs import PromptLogprobs
from router.forwarding.upstream import UpstreamRequest
from router.protocol.answer import UpstreamAnswer

logger = logging.getLogger(__name__)


class Lingering:
    """Prefill tasks that outlive the answer by a moment, until they end."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def add(self, task: asyncio.Task[None]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._forget)

    async def close(self) -> None:
        await _cancel(*self._tasks)

    def _forget(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            logger.info("prefill failed after decode had answered: %s", error)


class Pair:
    """The same request to a prefill and a decode instance. Call `answer` once, then `close`."""

    def __init__(
        self,
        prefill: UpstreamRequest,
        decode: UpstreamRequest,
        lingering: Lingering,
        prompts: PromptLogprobs | None = None,
    ) -> None:
        self._prefill = prefill
        self._decode = decode
        self._lingering = lingering
        self._prompts = prompts
        self._tasks: tuple[asyncio.Task[None], asyncio.Task[UpstreamAnswer]] | None = None

    async def answer(self) -> UpstreamAnswer:
        """Decode's answer, with what `prompts` has to add from prefill's.

        Raises the Failure of the first half that fails before decode's answer begins.
        """
        on_event = None if self._prompts is None else self._prompts.add
        prefill = asyncio.create_task(self._prefill.drain(on_event))
        decode = asyncio.create_task(self._decode.answer())
        self._tasks = prefill, decode
        answer = await _first_answer(prefill, decode)
        return answer if self._prompts is None else await self._prompts.merged(answer, prefill)

    async def close(self) -> None:
        """Before the answer's end (the client left, a half failed) this breaks off both halves."""
        if self._tasks is None:
            await self._decode.close()
            await self._prefill.close()
            return
        prefill, decode = self._tasks
        if self._decode.finished and decode.done() and not decode.exception():
            await self._decode.close()
            self._lingering.add(prefill)
            return
        try:
            await asyncio.gather(self._prefill.decided(prefill), self._decode.decided(decode))
        finally:
            await self._decode.close()
            await _cancel(prefill, decode)
            await self._prefill.close()


async def _first_answer(prefill: asyncio.Task[None], decode: asyncio.Task[UpstreamAnswer]) -> UpstreamAnswer:
    """Decode's. Prefill's failure counts if it comes before that, or together with decode's own failure."""
    running: set[asyncio.Task[Any]] = {prefill, decode}
    while not decode.done():
        done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
        if prefill in done and prefill.exception() and (not decode.done() or decode.exception()):
            prefill.result()
    return decode.result()


async def _cancel(*tasks: asyncio.Task[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
