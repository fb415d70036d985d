"""One attempt to have a request answered."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from router.errors import InstanceRefused
from router.forwarding.record import RequestRecord
from router.protocol import bootstrap
from router.protocol.answer import UpstreamAnswer
from router.protocol.usage import ReportedUsage, watched
from router.scheduling.placement import Placement
from router.scheduling.scheduler import Scheduler


class Exchange(Protocol):
    """A request to one instance, or to a prefill/decode pair."""

    async def answer(self) -> UpstreamAnswer:
        """The whole answer, or a stream from its first bytes on. Raises Failure. Call it once."""
        ...

    async def close(self) -> None:
        """Breaks off what has not ended, and releases what is charged."""
        ...


class Attempt:
    """Call `run` once. If it returns, `answer` is there, and `close` must be called; if it raises, it has
    closed the attempt.

    `observe` may return the answer with something around its stream. `added_fields`: what the router put
    into the client's body, one group after the other; a refusal that quotes the body does not quote these.
    """

    def __init__(
        self,
        exchange: Exchange,
        *,
        observe: Callable[[UpstreamAnswer], UpstreamAnswer] = lambda answer: answer,
        added_fields: Iterable[dict[str, Any]] = (),
    ) -> None:
        self._exchange = exchange
        self._observe = observe
        self._added_fields = added_fields
        self._answer: UpstreamAnswer | None = None
        self._on_close: list[Callable[[], None]] = []

    @property
    def answer(self) -> UpstreamAnswer:
        assert self._answer is not None
        return self._answer

    async def run(self) -> UpstreamAnswer:
        """The answer, or a stream from its first bytes on. Raises Failure."""
        try:
            self._answer = self._observe(await self._exchange.answer())
        except BaseException as error:
            await self.close()
            if isinstance(error, InstanceRefused):
                for fields in self._added_fields:
                    error.rewrite(bootstrap.without_echo(error.body, fields))
            raise
        return self._answer

    async def close(self) -> None:
        """Breaks off what has not ended: the client has left, or an instance failed."""
        try:
            await self._exchange.close()
        finally:
            while self._on_close:
                self._on_close.pop()()

    def call_on_close(self, callback: Callable[[], None]) -> None:
        """Calls `callback` once, when nothing of the attempt runs any more."""
        self._on_close.append(callback)


def observed(
    answer: UpstreamAnswer, placement: Placement, scheduler: Scheduler, record: RequestRecord
) -> UpstreamAnswer:
    """The same answer. What it reports at its end goes to `record`, and to `scheduler` to learn from.

    Without the prompt's tokens or text there is nothing to learn, and nothing is read.
    """
    if placement.request.prefix is None or answer.status != 200 or answer.failure is not None:
        return answer
    # The client's bytes first.
    soon = asyncio.get_running_loop().call_soon
    if answer.rest is not None:
        soon(scheduler.began, placement)

    def on_end(outcome: ReportedUsage) -> None:
        record.reported(outcome)
        soon(scheduler.answered, placement, outcome)

    return watched(answer, on_end)
