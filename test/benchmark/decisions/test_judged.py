"""When bench_decisions calls a decision right, and where it sees the crossover."""

import pytest

from benchmark.decisions.judged import bars, by_bandwidth, by_length, crossing, crossovers, table
from benchmark.decisions.points import COMPUTE, FETCH, FetchPoint


def point(bandwidth, tokens, fetch, recompute, fetches=None, predicted=None):
    """Seconds; the router decides as predicted, which is as measured, unless it is said otherwise."""
    will = predicted or (fetch, recompute)
    measured = {FETCH: [fetch, 9 * fetch, fetch / 9], COMPUTE: [recompute] * 3}
    decided = will[0] < will[1] if fetches is None else fetches
    return FetchPoint(bandwidth, tokens, dict(zip((FETCH, COMPUTE), will, strict=True)), decided, measured)


WON, LOST = point(2e8, 512, 0.1, 0.4), point(1e7, 512, 2.0, 0.4)
CLOSE = point(5e7, 512, 0.40, 0.45, fetches=False)


def test_the_median_round_says_which_way_was_faster():
    assert WON.gained == pytest.approx(0.3)
    assert WON.clear
    assert WON.right
    assert not CLOSE.clear
    assert not CLOSE.right


def test_a_decision_for_the_slower_way_misses_the_bar_if_they_are_apart():
    assert all(bar.ok for bar in bars([WON, LOST, CLOSE]))
    assert "of 2 that" in bars([WON, LOST, CLOSE])[0].name
    wrong = point(5e7, 512, 0.40, 0.47, fetches=False)
    assert [bar.ok for bar in bars([WON, LOST, wrong])] == [False, True, True]


@pytest.mark.parametrize(("points", "met"), [([WON], [True, True, False]), ([LOST], [True, False, True])])
def test_a_run_in_which_only_one_way_wins_shows_nothing(points, met):
    assert [bar.ok for bar in bars(points)] == met


def test_no_bar_of_winning_and_losing_is_met_by_nothing():
    assert [bar.ok for bar in bars([])] == [True, False, False]


def test_the_crossing_is_on_the_line_between_its_neighbours():
    assert crossing([(100, -1.0), (300, 3.0), (200, -1.0)]) == pytest.approx(225)
    assert crossing([(100, 2.0), (200, -2.0)]) == 150
    assert crossing([(100, 1.0), (200, 2.0)]) is None
    assert crossing([]) is None


def test_crossovers_are_printed_as_measured_and_as_computed():
    points = [
        point(5e7, 100, 0.2, 0.1, predicted=(0.1, 0.1)),
        point(5e7, 200, 0.2, 0.3, predicted=(0.1, 0.3)),
        point(1e7, 100, 0.5, 0.1),
        point(1e7, 200, 1.0, 0.3),
    ]
    assert by_length(points) == {5e7: (150, 100), 1e7: (None, None)}
    assert list(by_length(points)) == [5e7, 1e7]
    found = by_bandwidth(points)
    assert found[100] == (None, None)
    # 0.1 s is gained at 1/50, 0.7 lost at 1/10 of a microsecond for each MB: an eighth of the way.
    assert found[200][0] == pytest.approx(1e6 / (0.02 + 0.08 / 8))
    text = crossovers(points)
    assert "at 50 MB/s the other way is faster from 150 tokens on, computed: 100" in text
    assert "at 10 MB/s the other way is faster from none of these tokens on" in text


def test_the_table_has_a_verdict_for_each():
    wrong = point(5e7, 1024, 0.40, 0.80, fetches=False)
    lines = table([WON, CLOSE, wrong]).splitlines()[1:]
    assert [line.split()[-1] for line in lines] == ["right", "fast", "WRONG"]
    assert [line.split()[6] for line in lines] == ["fetch", "recompute", "recompute"]
