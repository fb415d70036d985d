"""Where fetching begins to be worth it, as measured and as computed, and which decisions were right."""

import itertools
from collections.abc import Sequence

from benchmark.bars import Bar, at_least, at_most
from benchmark.decisions.points import CLEAR, COMPUTE, FETCH, FetchPoint
from sglang_memserve.bench.figures import Rounds

_MODEL = "the router's cost model"
Places = tuple[float | None, float | None]
"""As measured, and as computed; None: none within what was measured."""


def crossing(gains: Sequence[tuple[float, float]]) -> float | None:
    """The first place where the gain changes its sign, on straight lines between these (place, gain)."""
    ordered = sorted(gains)
    for (a, low), (b, high) in itertools.pairwise(ordered):
        if (low > 0) != (high > 0):
            return a + (b - a) * low / (low - high)
    return None


def by_length(points: Sequence[FetchPoint]) -> dict[float, Places]:
    """By bandwidth: from how many tokens on the other way is the faster one."""
    return {
        bandwidth: _places([(point.tokens, point) for point in points if point.bandwidth == bandwidth])
        for bandwidth in sorted({point.bandwidth for point in points}, reverse=True)
    }


def by_bandwidth(points: Sequence[FetchPoint]) -> dict[int, Places]:
    """By tokens: the bandwidth, in bytes a second, at which both ways are as fast.

    A fetch's time is a straight line over the inverse of it.
    """
    found = {}
    for tokens in sorted({point.tokens for point in points}):
        places = _places([(1 / point.bandwidth, point) for point in points if point.tokens == tokens])
        found[tokens] = (places[0] and 1 / places[0], places[1] and 1 / places[1])
    return found


def _places(points: Sequence[tuple[float, FetchPoint]]) -> Places:
    return (
        crossing([(place, point.gained) for place, point in points]),
        crossing([(place, point.expected) for place, point in points]),
    )


def bars(points: Sequence[FetchPoint]) -> list[Bar]:
    clear = [point for point in points if point.clear]
    wrong = [point for point in clear if not point.right]
    won, lost = (sum((point.gained > 0) == wins for point in clear) for wins in (True, False))
    apart = f"more than {100 * CLEAR:.0f} % apart"
    return [
        at_most(f"wrong decisions of {len(clear)} that are {apart}", len(wrong), 0, "", _MODEL),
        at_least(f"prefixes whose fetch won, {apart}", won, 1, "", COMPUTE),
        at_least(f"prefixes whose fetch lost, {apart}", lost, 1, "", COMPUTE),
    ]


def rounds_of(points: Sequence[FetchPoint]) -> Rounds:
    """For a table, and for the JSON."""
    rounds = Rounds()
    for point in points:
        for way in (FETCH, COMPUTE):
            where = f"{point.bandwidth / 1e6:.3g} MB/s, {point.tokens} tokens"
            for seconds in point.measured[way]:
                rounds.note(where, way, ttft_ms=1e3 * seconds, predicted_ms=1e3 * point.predicted[way])
    return rounds


def table(points: Sequence[FetchPoint]) -> str:
    """A row for each point; times in ms."""
    head = "    MB/s  tokens     fetch  predicted  recompute  predicted  the router  "
    return "\n".join([head, *map(_row, points)])


def _row(point: FetchPoint) -> str:
    times = [f"{1e3 * seconds:9.0f}" for way in (FETCH, COMPUTE) for seconds in _both(point, way)]
    verdict = ("right" if point.right else "WRONG") if point.clear else "as fast"
    choice = FETCH if point.fetches else COMPUTE
    return f"{point.bandwidth / 1e6:8.1f}  {point.tokens:6}  {'  '.join(times)}  {choice:>10}  {verdict}"


def _both(point: FetchPoint, way: str) -> tuple[float, float]:
    return point.median(way), point.predicted[way]


def crossovers(points: Sequence[FetchPoint]) -> str:
    """A sentence for each crossover."""
    lines = [
        f"at {bandwidth / 1e6:.3g} MB/s the other way is faster from {_said(measured, 1)} tokens on, "
        f"computed: {_said(computed, 1)}"
        for bandwidth, (measured, computed) in by_length(points).items()
    ]
    lines += [
        f"for {tokens} tokens both are as fast at {_said(measured, 1e6)} MB/s, computed: "
        f"{_said(computed, 1e6)}"
        for tokens, (measured, computed) in by_bandwidth(points).items()
    ]
    return "\n".join(lines)


def _said(place: float | None, unit: float) -> str:
    return "none of these" if place is None else f"{place / unit:.3g}"
