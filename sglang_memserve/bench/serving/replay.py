"""The open loop: sessions begin when they are due, whether or not the server keeps up."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from sglang_memserve.bench.serving.answer import Record, RequestError
from sglang_memserve.bench.serving.apis import Conversation
from sglang_memserve.bench.serving.client import Client
from sglang_memserve.bench.workloads.form import Session, Workload

Watch = Callable[[Record], None]
"""Told of each request as it ends."""
New = Callable[[str], Conversation]
"""Takes the session's name."""


@dataclass(frozen=True)
class Run:
    """What came of a workload. `seconds`: from the start to the last answer. `planned`: its requests.

    A session ends with its first failure, so `records` may be fewer than `planned`: those were never sent.
    """

    records: list[Record]
    planned: int
    seconds: float

    @property
    def unsent(self) -> int:
        return self.planned - len(self.records)


@dataclass
class _Replay:
    client: Client
    new: New
    watch: Watch
    limit_s: float
    start: float = 0.0
    records: list[Record] = field(default_factory=list)

    async def all(self, workload: Workload) -> None:
        self.start = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for session in workload.sessions:
                # Written out before it is due, so that it can leave at once.
                talk = _Talk(self, session, self.new(session.name))
                body = talk.body(0)
                await asyncio.sleep(session.arrival - self.now())
                group.create_task(talk.hold(body))

    def now(self) -> float:
        return time.perf_counter() - self.start

    def keep(self, record: Record) -> None:
        self.records.append(record)
        self.watch(record)


@dataclass
class _Talk:
    """One session."""

    replay: _Replay
    session: Session
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

    async def _turn(self, number: int, planned: float, body: bytes | RequestError) -> Record:
        sent = self.replay.now()
        about = (self.session.name, number + 1, planned, sent, self.session.turns[number].output_tokens)
        try:
            if isinstance(body, RequestError):
                raise body
            answer = await self.replay.client.ask(self.conversation, body)
            if number + 1 < len(self.session.turns):
                self.conversation.keep(answer)
        except RequestError as failure:
            return Record(*about, error=str(failure))
        except asyncio.CancelledError:
            self.replay.keep(
                Record(*about, error=f"no answer when the run ended after {self.replay.limit_s:g} s")
            )
            raise
        return Record(*about, answer=answer)


async def replay(workload: Workload, client: Client, new: New, watch: Watch, limit_s: float) -> Run:
    """Sends the workload to the client's server: each session's first turn at its arrival, each further turn
    `after` seconds after the answer before it. What is not answered after `limit_s` seconds counts as failed.
    """
    going = _Replay(client, new, watch, limit_s)
    try:
        async with asyncio.timeout(limit_s):
            await going.all(workload)
    except TimeoutError:
        pass
    planned = sum(len(session.turns) for session in workload.sessions)
    return Run(going.records, planned, going.now())
