"""What a benchmark says at its end: medians of rounds with their spread, and bars met or missed."""

import json
import math
import os
import platform
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

_CPUINFO = Path("/proc/cpuinfo")


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


@dataclass(frozen=True)
class Bar:
    """A figure that was promised. `value` is None where its peer was not there, and then it is not met."""

    name: str
    value: float | None
    unit: str
    peer: str
    bar: float
    ok: bool


def at_most(name: str, value: float | None, bar: float, unit: str, peer: str) -> Bar:
    return Bar(name, value, unit, peer, bar, value is not None and value <= bar)


def at_least(name: str, value: float | None, bar: float, unit: str, peer: str) -> Bar:
    return Bar(name, value, unit, peer, bar, value is not None and value >= bar)


def machine(*packages: str) -> dict[str, Any]:
    """What the figures hang on: processor, cores, kernel, Python, and versions of installed `packages`."""
    return {
        "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "python": platform.python_version(),
        **{name: version for name in packages if (version := _version(name))},
    }


def report(
    machine: dict[str, Any], results: dict[str, Any], bars: Sequence[Bar], skipped: Sequence[str] = ()
) -> str:
    """The benchmark's one JSON object. `skipped` names the peers that were left out, and why."""
    return json.dumps(
        {
            "machine": machine,
            "results": results,
            "bars": [asdict(bar) for bar in bars],
            "skipped": list(skipped),
        }
    )


def show_bars(bars: Sequence[Bar], skipped: Sequence[str] = ()) -> str:
    lines = [
        f"{'met   ' if bar.ok else 'MISSED'}  {bar.name}: {_number(bar.value)} {bar.unit}"
        f" (bar {bar.bar:g}, against {bar.peer})"
        for bar in bars
    ]
    return "\n".join([*lines, *(f"SKIPPED {what}" for what in skipped)])


def _number(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.3g}"


def _cpu_name() -> str:
    try:
        lines = _CPUINFO.read_text().splitlines()
    except OSError:
        return platform.machine()
    return next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine()
    )


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
