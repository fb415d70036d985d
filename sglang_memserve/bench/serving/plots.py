"""A comparison as pictures: latency over rate, distributions, and how a run went over its time."""

from bisect import bisect_right
from collections.abc import Mapping, Sequence

from sglang_memserve.bench.chart import Chart, Panel, Point, scale_of
from sglang_memserve.bench.serving.answer import StreamedAnswer
from sglang_memserve.bench.serving.measure import answered
from sglang_memserve.bench.serving.rounds import Lap

Results = Mapping[str, Mapping[str, Mapping[str, Mapping[str, float]]]]
"""By workload, arm, figure: median, low and high, as Rounds gives them."""
_LATENCIES = ("ttft", "tpot", "jct")


def over_rate(results: Results, rates: Mapping[str, float]) -> Chart:
    """Medians of the rounds, with their spread, over sessions a second; `rates` by workload.

    Raises ValueError for a single rate.
    """
    if len(set(rates.values())) < 2:
        raise ValueError("one rate makes no curve")
    x_label = "offered rate (sessions/s)"
    panels = []
    for name, which in (("ttft", "p50"), ("ttft", "p99"), ("tpot", "p50"), ("jct", "p50")):
        curves = _curves(results, rates, f"{name}_{which}_ms")
        scale = scale_of(point.y for curve in curves.values() for point in curve)
        y_label = f"{name.upper()} {which.upper()} (ms)"
        panels.append(Panel(x_label=x_label, y_label=y_label, curves=curves, y_scale=scale))
    served = _curves(results, rates, "served_per_s")
    panels.append(Panel(x_label=x_label, y_label="answered (requests/s)", curves=served, y_scale="linear"))
    return Chart("Latency over rate: median and spread of the rounds", panels)


def distributions(workload: str, laps: Sequence[Lap]) -> Chart:
    """The share of answers that took at most so long, over all rounds; a band for the rounds' spread."""
    panels = []
    for name in _LATENCIES:
        if curves := _distributions_of(laps, name):
            times = [point.x for curve in curves.values() for point in curve]
            label, scale = f"{name.upper()} (ms)", scale_of(times)
            panels.append(
                Panel(
                    x_label=label,
                    y_label="share of answers",
                    curves=curves,
                    style="steps",
                    x_scale=scale,
                    y_scale="linear",
                )
            )
    return Chart(f"Distribution of latencies: {workload}", panels)


def timeline(workload: str, laps: Sequence[Lap]) -> Chart:
    """Each answer's TTFT at the moment of its request, a panel for each arm."""
    found = {}
    for arm in dict.fromkeys(lap.arm for lap in laps):
        records = [record for lap in laps if lap.arm == arm for record in lap.run.records]
        points = [Point(r.sent, 1e3 * r.answer.ttft) for r in records if r.answer is not None]
        if points:
            found[arm] = sorted(points)
    scale = scale_of(point.y for points in found.values() for point in points)
    panels = [
        Panel(
            x_label="since the start of the run (s)",
            y_label="TTFT (ms)",
            curves={arm: points},
            style="dots",
            x_scale="linear",
            y_scale=scale,
        )
        for arm, points in found.items()
    ]
    return Chart(f"First tokens over the run: {workload}", panels, same_axes=True)


def _curves(results: Results, rates: Mapping[str, float], figure: str) -> dict[str, list[Point]]:
    curves: dict[str, list[Point]] = {}
    for label, rate in sorted(rates.items(), key=lambda pair: pair[1]):
        for arm, figures in results.get(label, {}).items():
            if figure in figures:
                curves.setdefault(arm, []).append(Point.of(rate, figures[figure]))
    return curves


def _distributions_of(laps: Sequence[Lap], name: str) -> dict[str, list[Point]]:
    """By arm, the distribution function of one latency: it rises from 0 at the shortest to 1."""
    curves: dict[str, list[Point]] = {}
    for arm in dict.fromkeys(lap.arm for lap in laps):
        rounds = [_latencies(answered(lap.run.records), name) for lap in laps if lap.arm == arm]
        if values := sorted(value for found in rounds for value in found):
            curves[arm] = _distribution(values, [found for found in rounds if found])
    return curves


def _distribution(values: Sequence[float], rounds: Sequence[Sequence[float]]) -> list[Point]:
    """Of all `values`, with the lowest and highest share that a single round has at each."""
    points = [Point(values[0], 0.0, 0.0, 0.0)]
    for value in sorted(set(values)):
        shares = [bisect_right(found, value) / len(found) for found in rounds]
        share = bisect_right(values, value) / len(values)
        points.append(Point(value, share, min(shares), max(shares)))
    return points


def _latencies(answers: Sequence[StreamedAnswer], name: str) -> list[float]:
    """In ms, in order; answers of one token have no TPOT."""
    found = (answer.end if name == "jct" else getattr(answer, name) for answer in answers)
    return sorted(1e3 * value for value in found if value is not None)
