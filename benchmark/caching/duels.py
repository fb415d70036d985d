"""PIVOT and one other system at a time, under the same arrivals, in rounds."""

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from statistics import median

import aiohttp

from benchmark.caching.parts import PIVOT
from sglang_memserve.bench.serving import arms as known
from sglang_memserve.bench.serving.arms import Arm, BenchTarget
from sglang_memserve.bench.serving.benchmark import plan_of
from sglang_memserve.bench.serving.options import BenchOptions
from sglang_memserve.bench.serving.rounds import Comparison, Lap, StartArms
from sglang_memserve.bench.workloads.form import Workload

RATIOS = ("ttft_avg_ms", "ttft_p50_ms", "ttft_p99_ms", "tpot_avg_ms", "jct_avg_ms", "jct_p99_ms")


@dataclass(frozen=True)
class Duel:
    """The laps of `pivot` and `partner` on a workload; `label` names it with its rate."""

    part: str
    label: str
    partner: str
    laps: Sequence[Lap]
    pivot: str = PIVOT

    @property
    def faultless(self) -> bool:
        """Whether no request failed: latencies of those that are left compare with nothing."""
        return all(lap.figures["failed_percent"] == lap.figures["unsent_percent"] == 0 for lap in self.laps)

    def values(self, arm: str, figure: str) -> dict[int, float]:
        """By round."""
        return {
            lap.round: lap.figures[figure] for lap in self.laps if lap.arm == arm and figure in lap.figures
        }

    def ratios(self, figure: str) -> list[float]:
        """The pivot's over the partner's, of each round that has both."""
        ours, theirs = self.values(self.pivot, figure), self.values(self.partner, figure)
        return [ours[number] / theirs[number] for number in ours if theirs.get(number)]

    def ratio(self, figure: str) -> float | None:
        """The rounds' median; None if there is none, or if requests failed."""
        found = self.ratios(figure)
        return median(found) if found and self.faultless else None

    def worst_ratio(self, figure: str) -> float | None:
        """The pivot's highest round over the partner's lowest: below 1 where their spreads do not meet."""
        ours, theirs = self.values(self.pivot, figure).values(), self.values(self.partner, figure).values()
        return max(ours) / min(theirs) if ours and theirs and self.faultless else None

    def best_ratio(self, figure: str) -> float | None:
        """The pivot's lowest round over the partner's highest: above 1 where it lost beyond the spread."""
        ours, theirs = self.values(self.pivot, figure).values(), self.values(self.partner, figure).values()
        return min(ours) / max(theirs) if ours and theirs and self.faultless else None


@dataclass
class Duels:
    """Runs the duels. `done` holds the results, `notes` what a reader of them has to know."""

    session: aiohttp.ClientSession
    start_arms: StartArms
    done: list[Duel]
    notes: list[str]

    async def fight(
        self,
        part: str,
        partners: Sequence[str],
        workloads: dict[str, Workload],
        options: BenchOptions,
        together: bool,
    ) -> None:
        """PIVOT against each of `partners`, who is started when the one before has gone.

        `together`: PIVOT stays up, so that the rounds of each pair alternate; otherwise whoever has the turn
        is started for it. Raises ClusterError; what was measured before is in `done`.
        """
        pivot = known.named(PIVOT)
        async with AsyncExitStack() as stack:
            start_arms = self.start_arms
            if together:
                (held,) = await stack.enter_async_context(self.start_arms([pivot]))
                start_arms = beside(held, self.start_arms)
            for partner in partners:
                comparison = Comparison(plan_of(options, workloads, together), self.session, start_arms)
                try:
                    await comparison.run([pivot, known.named(partner)])
                finally:
                    self._keep(part, partner, comparison)

    def _keep(self, part: str, partner: str, comparison: Comparison) -> None:
        for label in comparison.plan.workloads:
            laps = [lap for lap in comparison.laps if lap.workload == label]
            if laps:
                self.done.append(Duel(part, label, partner, laps))
        self.notes += [note for note in comparison.notes if note not in self.notes]


def beside(held: BenchTarget, start_arms: StartArms) -> StartArms:
    """As `start_arms`, but for `held`, which is up already."""

    @asynccontextmanager
    async def others(arms: Sequence[Arm]) -> AsyncIterator[list[BenchTarget]]:
        async with start_arms([arm for arm in arms if arm.name != held.name]) as started:
            yield [held, *started]

    return others
