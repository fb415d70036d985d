"""The results of a benchmark: a table, JSON, plots, and a line for each request."""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from sglang_memserve.bench import figures
from sglang_memserve.bench.chart import Chart
from sglang_memserve.bench.serving import plots, report
from sglang_memserve.bench.serving.arms import Arm
from sglang_memserve.bench.serving.measure import Slo, offered_per_s
from sglang_memserve.bench.serving.options import BenchOptions
from sglang_memserve.bench.serving.rounds import Lap
from sglang_memserve.bench.workloads.form import Workload
from sglang_memserve.bench.workloads.statistics import summarise

_PAGE = 16


@dataclass(frozen=True)
class BenchOutcome:
    """`workloads` and `rates` by label; a rate is in sessions a second, None for a trace's own times."""

    laps: Sequence[Lap]
    notes: Sequence[str]
    workloads: Mapping[str, Workload]
    rates: Mapping[str, float | None]
    slo: Slo
    arms: Sequence[Arm]
    machine: dict[str, Any]

    def publish(self, options: BenchOptions) -> None:
        """Prints, and writes the files that were asked for."""
        results = report.collected(self.laps, [arm.name for arm in self.arms]).results()
        caveats = [*self.notes, *report.warnings(self.laps)]
        print("\n".join(f"{arm.name}: {arm.about}" for arm in self.arms), end="\n\n")
        headings = {label: heading(label, workload) for label, workload in self.workloads.items()}
        print(report.tables(results, headings, self.slo))
        print("".join(f"\nNOTE {caveat}" for caveat in caveats), end="" if not caveats else "\n")
        if options.plot:
            self._draw(options.plot, options.plot_format, results)
        if options.records:
            options.records.parent.mkdir(parents=True, exist_ok=True)
            options.records.write_bytes(report.records_jsonl(self.laps))
            _say(f"{options.records} has a line for each request")
        if options.json:
            print(figures.report(self.machine | {"workloads": self._summaries()}, results, [], caveats))

    def _summaries(self) -> dict[str, Any]:
        return {label: asdict(summarise(workload, _PAGE)) for label, workload in self.workloads.items()}

    def _draw(self, folder: Path, kind: str, results: dict[str, Any]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        rates = {label: rate for label, rate in self.rates.items() if rate is not None}
        write(folder / f"rates.{kind}", partial(plots.over_rate, results, rates))
        for number, label in enumerate(self.workloads):
            end = f"-{number + 1}" if len(self.workloads) > 1 else ""
            laps = [
                lap for arm in self.arms for lap in self.laps if (lap.workload, lap.arm) == (label, arm.name)
            ]
            write(folder / f"cdf{end}.{kind}", partial(plots.distributions, label, laps))
            write(folder / f"timeline{end}.{kind}", partial(plots.timeline, label, laps))


def heading(label: str, workload: Workload) -> str:
    """The workload in a line."""
    summary, offered = summarise(workload, _PAGE), offered_per_s(workload)
    rate = f"{offered:.2f} requests a second offered, " if offered else ""
    return (
        f"{label}: {summary.sessions} sessions, {summary.requests} requests; {rate}"
        f"mean prompt {summary.prompt.mean:.0f} and answer {summary.output.mean:.0f} tokens; "
        f"{100 * summary.reusable_share:.0f} % of the prompts' tokens could come from a cache"
    )


def write(file: Path, picture: Callable[[], Chart]) -> None:
    """Draws it, or says that there is nothing to draw."""
    try:
        picture().save(file)
    except ValueError as nothing:
        _say(f"{file} is not drawn: {nothing}")
    else:
        _say(f"{file} is drawn")


def _say(text: str) -> None:
    print(text, file=sys.stderr)
