"""What bench_caching leaves: tables, bars, JSON and pictures."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from benchmark.bars import report as as_json
from benchmark.bars import show_bars
from benchmark.caching import crossover
from benchmark.caching.arguments import CachingArguments
from benchmark.caching.bars import bars
from benchmark.caching.duels import RATIOS, Duel
from benchmark.caching.parts import PIVOT
from sglang_memserve.bench.figures import Rounds
from sglang_memserve.bench.serving import plots, report
from sglang_memserve.bench.serving.measure import Slo
from sglang_memserve.bench.serving.outcome import heading, write
from sglang_memserve.bench.serving.rounds import Lap
from sglang_memserve.bench.workloads.form import Workload
from sglang_memserve.bench.workloads.statistics import summarise


@dataclass
class CachingOutcome:
    """`workloads` by part and label, `rates` in sessions a second by label; `crossover` as Rounds has it."""

    asked: CachingArguments
    machine: dict[str, Any]
    duels: list[Duel] = field(default_factory=list)
    crossover: Rounds = field(default_factory=Rounds)
    notes: list[str] = field(default_factory=list)
    workloads: dict[str, Mapping[str, Workload]] = field(default_factory=dict)
    rates: dict[str, float] = field(default_factory=dict)

    @property
    def empty(self) -> bool:
        return not self.duels and not self.crossover.results()

    def publish(self, ended: Exception | None = None) -> None:
        """Prints, and writes the files that were asked for. `ended`: what ended it early."""
        options, judged = self.asked.options, bars(self.asked.parts, self.duels)
        caveats = [*self.notes, *report.warnings(self._laps()), *([f"ended early: {ended}"] if ended else [])]
        systems, ratios, points = self._systems(), self._ratios(), self.crossover
        if self.duels:
            print(report.tables(systems, self._headings(), Slo()), end="\n\n")
            print(f"{PIVOT} over the other of the same round:\n{ratios.table()}", end="\n\n")
        if found := points.table():
            print(found, end="\n\n")
        print(show_bars(judged, self.asked.skipped), *(f"NOTE {caveat}" for caveat in caveats), sep="\n")
        if options.plot:
            self._draw(options.plot, systems)
        if options.json:
            results = systems | ratios.results() | points.results()
            left = [*self.asked.skipped, *caveats]
            print(as_json(self.machine | {"workloads": self._summaries()}, results, judged, left))

    def _laps(self, part: str | None = None) -> list[Lap]:
        return [lap for duel in self.duels if part in (None, duel.part) for lap in duel.laps]

    def _systems(self) -> dict[str, Any]:
        """All rounds of each system, those of PIVOT from all of its duels."""
        arms = list(dict.fromkeys([PIVOT, *(duel.partner for duel in self.duels)]))
        return report.collected(self._laps(), arms).results()

    def _ratios(self) -> Rounds:
        rounds = Rounds()
        for duel in self.duels:
            for figure in RATIOS:
                for ratio in duel.ratios(figure):
                    rounds.note(f"{duel.label}: ratios", f"over {duel.partner}", **{figure: ratio})
        return rounds

    def _headings(self) -> dict[str, str]:
        made = {label: workload for part in self.workloads.values() for label, workload in part.items()}
        return {label: heading(label, workload) for label, workload in made.items()}

    def _summaries(self) -> dict[str, Any]:
        return {
            label: asdict(summarise(workload, 16))
            for part in self.workloads.values()
            for label, workload in part.items()
        }

    def _draw(self, folder: Path, systems: dict[str, Any]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for part, workloads in self.workloads.items():
            rates = {label: rate for label, rate in self.rates.items() if label in workloads}
            if len(rates) > 1:
                write(folder / f"{part}.svg", partial(plots.over_rate, systems, rates))
            else:
                write(folder / f"{part}.svg", partial(plots.distributions, part, self._laps(part)))
        if points := self.crossover.results():
            where = f"{self.machine['cpu']}, {self.machine['cores']} cores"
            write(folder / "crossover.svg", partial(crossover.figure, points, where))
