"""Rounds: in each, every arm gets the same sessions at the same moments, in an order of its own."""

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field, replace

import aiohttp

from sglang_memserve.bench.serving import admin
from sglang_memserve.bench.serving.answer import RequestError
from sglang_memserve.bench.serving.apis import APIS, Conversation, RequestSettings
from sglang_memserve.bench.serving.arms import Arm, BenchTarget
from sglang_memserve.bench.serving.client import Client
from sglang_memserve.bench.serving.measure import Slo, figures
from sglang_memserve.bench.serving.progress import RunProgress
from sglang_memserve.bench.serving.replay import Replay, ReplayResult
from sglang_memserve.bench.workloads.form import Workload, WorkloadTurn
from sglang_memserve.cluster.errors import ClusterError

StartArms = Callable[[Sequence[Arm]], AbstractAsyncContextManager[list[BenchTarget]]]
"""Starts arms for as long as a block lasts."""
_WARM_UP_TOKENS = 4
_SEEN_S = 60.0


@dataclass(frozen=True)
class ComparisonPlan:
    """How arms are compared. `workloads`: the same sessions at each rate, by label. Seconds throughout.

    `request_s` bounds a request, `run_s` one run of a workload. `together`: all arms are up all the time;
    otherwise each is started for its turn of each round. `between_s`: the rest before each run.
    """

    workloads: dict[str, Workload]
    rounds: int
    api: str
    asking: RequestSettings
    slo: Slo
    request_s: float
    run_s: float
    together: bool
    seed: int = 0
    between_s: float = 0.5


@dataclass(frozen=True)
class Lap:
    """One arm's run of one workload in one round (from 1)."""

    round: int
    workload: str
    arm: str
    run: ReplayResult
    figures: dict[str, float]


@dataclass
class Comparison:
    """Runs a plan. `laps` holds the results, `notes` what a reader of them has to know."""

    plan: ComparisonPlan
    session: aiohttp.ClientSession
    start_arms: StartArms
    laps: list[Lap] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    async def run(self, arms: Sequence[Arm]) -> None:
        """Raises ClusterError if an arm cannot be started, or answers no request at all."""
        rng = random.Random(self.plan.seed)
        if self.plan.together:
            async with self.start_arms(arms) as targets:
                for number in range(1, self.plan.rounds + 1):
                    for label in self.plan.workloads:
                        for target in rng.sample(targets, len(targets)):
                            await self._lap(number, label, target)
            return
        for number in range(1, self.plan.rounds + 1):
            for arm in rng.sample(list(arms), len(arms)):
                async with self.start_arms([arm]) as (target,):
                    for label in self.plan.workloads:
                        await self._lap(number, label, target)

    async def _lap(self, number: int, label: str, target: BenchTarget) -> None:
        plan, workload = self.plan, self.plan.workloads[label]
        client = Client(self.session, target.url, plan.request_s)
        await self._warm_up(client, target, workload)
        if reason := await admin.flush(self.session, target):
            self._note(f"{target.name}'s caches were not emptied between the runs: {reason}")
        await asyncio.sleep(plan.between_s)
        before = await admin.counted(self.session, target)
        what = f"round {number} of {plan.rounds}, {label}, {target.name}"
        with RunProgress(what, sum(len(session.turns) for session in workload.sessions)) as progress:
            replay = Replay(workload, client, self._conversation, progress.count, plan.run_s)
            try:
                await replay.run()
            except asyncio.CancelledError:
                if replay.records:
                    self._keep(number, label, target, replay.result(), {})
                raise
        grown = admin.grown(before, await admin.counted(self.session, target))
        self._keep(number, label, target, replay.result(), grown)

    def _keep(
        self, number: int, label: str, target: BenchTarget, run: ReplayResult, grown: dict[str, float]
    ) -> None:
        self.laps.append(Lap(number, label, target.name, run, figures(run, self.plan.slo) | grown))

    async def _warm_up(self, client: Client, target: BenchTarget, workload: Workload) -> None:
        """One request like the workload's first, with a short answer: what happens only once happens now."""
        first = _unlike(workload.sessions[0].turns[0])
        # sglang-router is ready before it has seen that its workers are.
        deadline = time.monotonic() + (_SEEN_S if target.engines else 0.0)
        while True:
            conversation = self._conversation("warm-up")
            try:
                await client.ask(conversation, conversation.ask(first))
                return
            except RequestError as error:
                if time.monotonic() > deadline:
                    what = f"{target.name} ({client.url}) fails its first request: {error}"
                    raise ClusterError(what) from None
            await asyncio.sleep(self.plan.between_s)

    def _conversation(self, session: str) -> Conversation:
        return APIS[self.plan.api](self.plan.asking, session)

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)


def _unlike(turn: WorkloadTurn) -> WorkloadTurn:
    """The turn backwards: as long, and no router takes the workload's own prompts for cached ones."""
    text = None if turn.text is None else turn.text[::-1]
    return replace(turn, tokens=turn.tokens[::-1], text=text, output_tokens=_WARM_UP_TOKENS)
