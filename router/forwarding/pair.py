"""One request on two instances: prefill and decode at the same time, and an end for both when one fails."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from router.forwarding.logprobs import Prompts
from router.forwarding.upstream import UpstreamRequest
from router.protocol.answer import Answer

logger = logging.getLogger(__name__)


class Pairs:
    """Runs pairs of legs. Prefill legs that outlive their answer by a moment are kept here until they end."""

    def __init__(self) -> None:
        self._lingering: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def run(
        self, prefill: UpstreamRequest, decode: UpstreamRequest, prompts: Prompts | None = None
    ) -> AsyncIterator[Answer]:
        """The decode leg's answer, with what `prompts` has to add from prefill's.

        The first leg to fail before it begins breaks off the other and raises.
        Leaving the block before the answer's end (the client left, decode broke off) breaks off both.
        """
        told = None if prompts is None else prompts.tell
        first, second = asyncio.create_task(prefill.drain(told)), asyncio.create_task(decode.answer())
        try:
            answer = await _winner(first, second)
            yield answer if prompts is None else await prompts.merged(answer, first)
        finally:
            decode.close()
            if decode.finished and second.done() and not second.exception():
                self._linger(first)
            else:
                await _cancel(first, second)
                prefill.close()

    async def close(self) -> None:
        await _cancel(*self._lingering)

    def _linger(self, task: asyncio.Task[None]) -> None:
        self._lingering.add(task)
        task.add_done_callback(self._forget)

    def _forget(self, task: asyncio.Task[None]) -> None:
        self._lingering.discard(task)
        if not task.cancelled() and (error := task.exception()):
            logger.info("prefill failed after decode had answered: %s", error)


async def _winner(prefill: asyncio.Task[None], decode: asyncio.Task[Answer]) -> Answer:
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
