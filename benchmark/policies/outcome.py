"""What bench_policies leaves: tables, bars, JSON and a picture."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from benchmark.bars import report as as_json
from benchmark.bars import show_bars
from benchmark.caching.duels import RATIOS
from benchmark.policies.arguments import PoliciesArguments
from benchmark.policies.bars import bars, duels
from benchmark.policies.contenders import COST_MODEL
from sglang_memserve.bench.figures import Rounds, percentile
from sglang_memserve.bench.serving import plots, report
from sglang_memserve.bench.serving.measure import Slo, answered
from sglang_memserve.bench.serving.outcome import heading, write
from sglang_memserve.bench.serving.rounds import Lap
from sglang_memserve.bench.workloads.form import Workload
from sglang_memserve.bench.workloads.statistics import summarise

TOGETHER = "ttft_p99_of_all_rounds_ms"


@dataclass(frozen=True)
class PoliciesOutcome:
    """`notes`: what a reader of it has to know."""

    asked: PoliciesArguments
    label: str
    workload: Workload
    laps: Sequence[Lap]
    notes: Sequence[str]
    machine: dict[str, Any]

    def publish(self) -> None:
        """Prints, and writes the files that were asked for."""
        options, contests = self.asked.options, duels(self.laps, self.asked.contenders)
        judged = bars(contests)
        results, ratios = self._results(), Rounds()
        for duel in contests:
            for figure in RATIOS:
                for ratio in duel.ratios(figure):
                    ratios.note(f"{self.label}: ratios", f"over {duel.partner}", **{figure: ratio})
        print(report.tables(results, {self.label: heading(self.label, self.workload)}, Slo()), end="\n\n")
        print(self._together(results), end="\n\n")
        print(f"{COST_MODEL} over the other of the same round:\n{ratios.table()}", end="\n\n")
        caveats = [*self.notes, *report.warnings(self.laps)]
        print(show_bars(judged, self.asked.skipped), *(f"NOTE {caveat}" for caveat in caveats), sep="\n")
        if options.plot:
            options.plot.mkdir(parents=True, exist_ok=True)
            write(options.plot / "policies.svg", partial(plots.distributions, self.label, self._in_order()))
        if options.records:
            (options.records / "requests.jsonl").write_bytes(report.records_jsonl(self.laps))
        if options.json:
            machine = self.machine | {"workload": asdict(summarise(self.workload, 16))}
            left = [*self.asked.skipped, *caveats]
            print(as_json(machine, results | ratios.results(), judged, left))

    def _in_order(self) -> list[Lap]:
        return [lap for name in self.asked.contenders for lap in self.laps if lap.arm == name]

    def _results(self) -> dict[str, Any]:
        rounds = report.collected(self.laps, self.asked.contenders)
        for name in self.asked.contenders:
            laps = [lap for lap in self.laps if lap.arm == name]
            ttfts = [1e3 * answer.ttft for lap in laps for answer in answered(lap.run.records)]
            if ttfts:
                rounds.note(self.label, name, **{TOGETHER: percentile(ttfts, 0.99)})
        return rounds.results()

    def _together(self, results: dict[str, Any]) -> str:
        arms = results[self.label].items()
        found = {name: arm[TOGETHER]["median"] for name, arm in arms if TOGETHER in arm}
        cells = ", ".join(f"{name} {value:,.0f}" for name, value in found.items())
        return f"TTFT P99 of all rounds' requests together, ms: {cells}"
