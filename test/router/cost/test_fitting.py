import pytest

from router.cost.fitting import FitError, mean_error, nonnegative


def test_what_is_linear_is_found_however_different_the_sizes():
    rows = [(1.0, float(n), float(n * n) * 1e9) for n in range(1, 40)]
    seconds = [2e-6 * a + 3e-7 * b + 5e-18 * c for a, b, c in rows]
    assert nonnegative(rows, seconds) == pytest.approx([2e-6, 3e-7, 5e-18], rel=1e-6)


def test_no_coefficient_is_below_0():
    rows = [(1.0, float(n)) for n in range(1, 20)]
    # The straight line through these cuts the axis below 0.
    seconds = [n**1.3 for _, n in rows]
    constant, slope = nonnegative(rows, seconds)
    assert constant == 0
    assert slope > 1


def test_two_equal_columns_do_not_share_their_weight():
    first, second = nonnegative([(n, 2.0 * n) for n in (1.0, 2.0, 5.0)], [3.0, 6.0, 15.0])
    assert (first, second) == (pytest.approx(3.0), 0.0)


def test_relative_errors_count_so_small_times_are_not_drowned():
    # Two lines; the large rows alone would have the constant at what they like.
    rows = [(1.0, 1.0), (1.0, 2.0), (1.0, 1e6), (1.0, 2e6)]
    constant, slope = nonnegative(rows, [11.0, 12.0, 1.1e6, 2.2e6])
    assert constant + slope == pytest.approx(11.0, rel=0.1)


@pytest.mark.parametrize("seconds", [[0.0, 1.0], [-1.0, 1.0]])
def test_an_impossible_time_is_refused(seconds):
    with pytest.raises(FitError, match="above 0"):
        nonnegative([(1.0,), (1.0,)], seconds)


def test_nothing_measured_is_refused():
    with pytest.raises(FitError, match="no rows"):
        nonnegative([], [])
    with pytest.raises(FitError, match="no rows"):
        mean_error([], [])
