import pytest

from sglang_memserve.bench import figures
from sglang_memserve.bench.figures import Rounds


def test_a_percentile_is_one_of_the_values():
    values = list(range(1, 101))[::-1]
    assert figures.percentile(values, 0.5) == 50
    assert figures.percentile(values, 0.99) == 99
    assert figures.percentile(values, 1.0) == 100
    assert figures.percentile([7.0], 0.5) == 7.0
    assert figures.percentile([1, 2, 3], 0.5) == 2


def test_a_percentile_of_nothing_is_refused():
    with pytest.raises(ValueError, match="no values"):
        figures.percentile([], 0.5)


def test_results_hold_median_and_spread_of_each_figure():
    rounds = Rounds()
    for value in (5.0, 1.0, 3.0):
        rounds.note("short", "ours", p50_ms=value)
    rounds.note("short", "theirs", p50_ms=4.0)
    assert rounds.results() == {
        "short": {
            "ours": {"p50_ms": {"median": 3.0, "low": 1.0, "high": 5.0}},
            "theirs": {"p50_ms": {"median": 4.0, "low": 4.0, "high": 4.0}},
        }
    }
    assert rounds.median("short", "ours", "p50_ms") == 3.0


def test_the_table_shows_what_an_arm_lacks():
    rounds = Rounds()
    rounds.note("short", "direct", p50_ms=1.0)
    rounds.note("short", "ours", p50_ms=2.0, added_ms=1.0)
    title, p50, added = (line.split() for line in rounds.table().splitlines())
    assert title == ["short", "direct", "ours"]
    assert p50 == ["p50_ms", "1", "(1-1)", "2", "(2-2)"]
    assert added == ["added_ms", "-", "1", "(1-1)"]


def test_a_figure_that_was_not_measured_has_no_median():
    rounds = Rounds()
    assert rounds.median("short", "theirs", "p50_ms") is None
