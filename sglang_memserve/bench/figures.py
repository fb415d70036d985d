"""The figures of a benchmark: medians of rounds with their spread, as a table and as JSON."""

import json
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Spread:
    """Median, lowest and highest of a figure's rounds."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        return cls(statistics.median(values), min(values), max(values))

    def __str__(self) -> str:
        return f"{self.median:.3g} ({self.low:.3g}-{self.high:.3g})"


def percentile(values: Iterable[float], share: float) -> float:
    """The smallest value that at least `share` (0 to 1) of `values` do not exceed. ValueError for none."""
    ordered = sorted(values)
    if not ordered:
        raise ValueError("no values to take a percentile of")
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


@dataclass
class Rounds:
    """Figures by workload and arm, one value a round."""

    _values: dict[str, dict[str, dict[str, list[float]]]] = field(default_factory=dict)

    def note(self, workload: str, arm: str, **figures: float) -> None:
        for name, value in figures.items():
            arms = self._values.setdefault(workload, {})
            arms.setdefault(arm, {}).setdefault(name, []).append(value)

    def median(self, workload: str, arm: str, figure: str) -> float | None:
        """None if that was not measured."""
        values = self._values.get(workload, {}).get(arm, {}).get(figure)
        return statistics.median(values) if values else None

    def ratio(self, workload: str, figure: str, ours: str, theirs: str) -> float | None:
        """The median of the arm `ours` over that of `theirs`; None where either was not measured, or is 0."""
        mine, other = (self.median(workload, arm, figure) for arm in (ours, theirs))
        return mine / other if mine and other else None

    def results(self) -> dict[str, Any]:
        """By workload, arm and figure, as it goes into the JSON."""
        return {
            workload: {
                arm: {figure: asdict(Spread.of(values)) for figure, values in figures.items()}
                for arm, figures in arms.items()
            }
            for workload, arms in self._values.items()
        }

    def table(self) -> str:
        """All of it for a reader: for each workload a row a figure and a column an arm."""
        return "\n\n".join(_table(workload, arms) for workload, arms in self._values.items())


def _table(title: str, arms: dict[str, dict[str, list[float]]]) -> str:
    rows = [[title, *arms]]
    for figure in dict.fromkeys(figure for figures in arms.values() for figure in figures):
        values = (figures.get(figure) for figures in arms.values())
        rows.append([figure, *(str(Spread.of(found)) if found else "-" for found in values)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows
    )


def report(
    machine: dict[str, Any],
    results: dict[str, Any],
    bars: Sequence[dict[str, Any]] = (),
    skipped: Sequence[str] = (),
) -> str:
    """The one JSON object of a benchmark. `skipped` names the peers that were left out, and why."""
    return json.dumps({"machine": machine, "results": results, "bars": list(bars), "skipped": list(skipped)})
