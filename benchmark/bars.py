"""The figures that a benchmark promises, and whether they were met."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sglang_memserve.bench import figures


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


def report(
    machine: dict[str, Any], results: dict[str, Any], bars: Sequence[Bar], skipped: Sequence[str] = ()
) -> str:
    """The one JSON object of a benchmark. `skipped` names the peers that were left out, and why."""
    return figures.report(machine, results, [asdict(bar) for bar in bars], skipped)


def show_bars(bars: Sequence[Bar], skipped: Sequence[str] = ()) -> str:
    lines = [
        f"{'met   ' if bar.ok else 'MISSED'}  {bar.name}: {_number(bar.value)} {bar.unit}"
        f" (bar {bar.bar:g}, against {bar.peer})"
        for bar in bars
    ]
    return "\n".join([*lines, *(f"SKIPPED {what}" for what in skipped)])


def conclude(
    machine: dict[str, Any],
    results: dict[str, Any],
    bars: Sequence[Bar],
    skipped: Sequence[str] = (),
    *,
    json: bool,
) -> None:
    """Prints whether the bars were met and, with `json`, the one JSON object at the end."""
    print(show_bars(bars, skipped))
    if json:
        print(report(machine, results, bars, skipped))


def _number(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.3g}"
