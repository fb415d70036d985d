"""A comparison as pictures: latency over rate, distributions, and how a run went over its time."""

from collections.abc import Mapping, Sequence

from sglang_memserve.bench.chart import Panel, Points, chart
from sglang_memserve.bench.serving.measure import answered
from sglang_memserve.bench.serving.rounds import Lap

Results = Mapping[str, Mapping[str, Mapping[str, Mapping[str, float]]]]
"""By workload, arm, figure: median, low and high, as Rounds gives them."""
_SMALLEST_MS = 0.01  # a logarithmic axis has no 0
_LATENCIES = ("ttft", "tpot", "jct")


def over_rate(results: Results, rates: Mapping[str, float]) -> str:
    """Medians of the rounds over sessions a second; `rates` by workload. ValueError for one rate alone."""
    if len(set(rates.values())) < 2:
        raise ValueError("one rate makes no curve")
    panels = [
        Panel(f"{name.upper()} {which.upper()} (ms)", _curves(results, rates, f"{name}_{which}_ms"))
        for name, which in (("ttft", "p50"), ("ttft", "p99"), ("tpot", "p50"), ("jct", "p50"))
    ]
    served = Panel("answered a second", _curves(results, rates, "served_per_s"), linear_y=True)
    return chart("Latency over rate", "sessions a second", [*panels, served])


def distributions(workload: str, laps: Sequence[Lap]) -> str:
    """The share of answers that took at most so long, over all rounds."""
    curves = {name: _cdfs(laps, name) for name in _LATENCIES}
    panels = [
        Panel("share of answers", lines, x_label=f"{name.upper()} (ms)", linear_y=True)
        for name, lines in curves.items()
        if lines
    ]
    return chart(f"Distribution of latencies: {workload}", "ms", panels)


def timeline(workload: str, laps: Sequence[Lap]) -> str:
    """Each answer's TTFT at the moment of its request, a panel for each arm."""
    panels = []
    for arm in dict.fromkeys(lap.arm for lap in laps):
        records = [record for lap in laps if lap.arm == arm for record in lap.run.records]
        points = [(r.sent, max(_SMALLEST_MS, 1e3 * r.answer.ttft)) for r in records if r.answer is not None]
        if points:
            panels.append(Panel(f"{arm}: TTFT (ms)", {arm: sorted(points)}, linear_x=True, dots=True))
    title = f"First tokens over the run: {workload}"
    return chart(title, "seconds since the start", panels, same_axes=True)


def _curves(
    results: Results,
    rates: Mapping[str, float],
    figure: str,
) -> dict[str, Points]:
    curves: dict[str, list[tuple[float, float]]] = {}
    for label, rate in sorted(rates.items(), key=lambda pair: pair[1]):
        for arm, found in results.get(label, {}).items():
            if figure in found:
                curves.setdefault(arm, []).append((rate, max(_SMALLEST_MS, found[figure]["median"])))
    return dict(curves)


def _cdfs(laps: Sequence[Lap], name: str) -> dict[str, Points]:
    curves: dict[str, Points] = {}
    for arm in dict.fromkeys(lap.arm for lap in laps):
        answers = answered(record for lap in laps if lap.arm == arm for record in lap.run.records)
        values = [answer.end if name == "jct" else getattr(answer, name) for answer in answers]
        ordered = sorted(max(_SMALLEST_MS, 1e3 * value) for value in values if value is not None)
        if ordered:
            curves[arm] = [(value, (n + 1) / len(ordered)) for n, value in enumerate(ordered)]
    return curves
