"""The open loop: sessions begin when they are due, whether or not the server keeps up."""

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from sglang_memserve.bench.serving.answer import ReplayRecord, RequestError
from sglang_memserve.bench.serving.apis import Conversation
from sglang_memserve.bench.serving.client import Client
from sglang_memserve.bench.workloads.form import Workload, WorkloadSession

Watch = Callable[[ReplayRecord], None]
"""Sees each request as it ends."""
New = Callable[[str], Conversation]
"""Takes the session's name."""


@dataclass(frozen=True)
class ReplayResult:
    """The records of a replay. `seconds`: from its start to the last answer. `planned`: all requests.

    A session ends with its first failure, so `records` may be fewer than `planned`: those were never sent.
    """

    records: list[ReplayRecord]
    planned: int
    seconds: float

    @property
    def unsent(self) -> int:
        return self.planned - len(self.records)


@dataclass
class Replay:
    """A workload on its way to the client's server.

    Each session's first turn is sent at its arrival, each further turn `after` seconds after the answer
    before it. `records` grows as requests end; `watch` sees each of them.
    """

    workload: Workload
    client: Client
    new: New
    watch: Watch
    limit_s: float
    start: float = 0.0
    records: list[ReplayRecord] = field(default_factory=list)

    async def run(self) -> None:
        """Until all is answered. What is not answered after `limit_s` seconds counts as failed."""
        self.start = time.perf_counter()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.limit_s):
                await self._send()

    def result(self) -> ReplayResult:
        """What has come so far; a run that was cancelled has a result too."""
        planned = sum(len(session.turns) for session in self.workload.sessions)
        return ReplayResult(self.records, planned, self.now())

    async def _send(self) -> None:
        async with asyncio.TaskGroup() as group:
            for session in self.workload.sessions:
                # Written out before it is due, so that it can leave at once.
                talk = _SessionReplay(self, session, self.new(session.name))
                body = talk.body(0)
                await asyncio.sleep(session.arrival - self.now())
                group.create_task(talk.hold(body))

    def now(self) -> float:
        return time.perf_counter() - self.start

    def keep(self, record: ReplayRecord) -> None:
        self.records.append(record)
        self.watch(record)

    @property
    def cut_off(self) -> str:
        """Why a request that is cancelled now gets no answer."""
        if self.now() < self.limit_s:
            return "no answer when the benchmark was interrupted"
        return f"no answer when the run ended after {self.limit_s:g} s"


@dataclass
class _SessionReplay:
    """One session."""

    replay: Replay
    session: WorkloadSession
    conversation: Conversation

    async def hold(self, body: bytes | RequestError) -> None:
        planned = self.session.arrival
        for number in range(len(self.session.turns)):
            if number:
                body = self.body(number)
                await asyncio.sleep(planned - self.replay.now())
            record = await self._turn(number, planned, body)
            self.replay.keep(record)
            if record.answer is None:
                return
            if number + 1 < len(self.session.turns):
                planned = record.sent + record.answer.end + self.session.turns[number + 1].after

    def body(self, number: int) -> bytes | RequestError:
        try:
            return self.conversation.ask(self.session.turns[number])
        except RequestError as error:
            return error

    async def _turn(self, number: int, planned: float, body: bytes | RequestError) -> ReplayRecord:
        sent = self.replay.now()
        about = (self.session.name, number + 1, planned, sent, self.session.turns[number].output_tokens)
        try:
            if isinstance(body, RequestError):
                raise body
            answer = await self.replay.client.ask(self.conversation, body)
            if number + 1 < len(self.session.turns):
                self.conversation.keep(answer)
        except RequestError as failure:
            return ReplayRecord(*about, error=str(failure))
        except asyncio.CancelledError:
            self.replay.keep(ReplayRecord(*about, error=self.replay.cut_off))
            raise
        return ReplayRecord(*about, answer=answer)


async def replay(workload: Workload, client: Client, new: New, watch: Watch, limit_s: float) -> ReplayResult:
    """Sends the whole workload, as Replay does."""
    sending = Replay(workload, client, new, watch, limit_s)
    await sending.run()
    return sending.result()
