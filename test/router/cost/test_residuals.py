import math

import pytest

from router.cost import Residuals


def test_an_instance_that_stays_slower_gets_its_factor():
    residuals = Residuals()
    for _ in range(200):
        residuals.observe("a", 1.0, 1.5)
    assert residuals.factors["a"] == pytest.approx(1.5, rel=0.01)
    assert "b" not in residuals.factors
    assert residuals.exported()["a"].observations == 200


def test_one_bad_moment_changes_little():
    residuals = Residuals()
    residuals.observe("a", 1.0, 1000.0)
    assert 1.0 < residuals.factors["a"] < 1.04


def test_a_factor_is_bounded_and_comes_back():
    residuals = Residuals(rate=0.2)
    for _ in range(1000):
        residuals.observe("a", 1.0, 50.0)
    assert residuals.factors["a"] == pytest.approx(2.0)
    for _ in range(1000):
        residuals.observe("a", 1.0, 1e-3)
    assert residuals.factors["a"] == pytest.approx(0.5)


@pytest.mark.parametrize("observed", [0.0, -1.0, math.nan, math.inf])
def test_an_impossible_time_is_ignored(observed):
    residuals = Residuals()
    residuals.observe("a", 1.0, observed)
    residuals.observe("a", observed, 1.0)
    assert residuals.exported() == {}


def test_the_error_is_that_of_the_corrected_prediction():
    residuals = Residuals(rate=1.0, fixed_s=0.0)
    residuals.observe("a", 1.0, 1.5)
    assert residuals.exported()["a"].error == pytest.approx(0.5)
    residuals.observe("a", 2.0, 3.0)
    # With the correction the second one is right, and the mean follows it at once at rate 1.
    assert residuals.exported()["a"].error == pytest.approx(0.0)


def test_a_penalty_fades_while_others_are_observed():
    residuals = Residuals()
    for _ in range(100):
        residuals.observe("slow", 1.0, 2.0)
    penalty = residuals.factors["slow"]
    for _ in range(300):
        residuals.observe("other", 1.0, 1.0)
    assert 1 < residuals.factors["slow"] < penalty**0.5
    assert residuals.exported()["slow"].factor == residuals.factors["slow"]


def test_what_a_short_prefill_takes_beside_it_counts_for_little():
    """40 ms instead of 10 say more of HTTP and hand-over than of prefills of a second."""
    short, long = Residuals(), Residuals()
    for _ in range(10):
        short.observe("a", 0.01, 0.04)
        long.observe("a", 1.0, 4.0)
    assert 1 < short.factors["a"] < long.factors["a"] ** 0.25


def test_an_instance_that_left_is_forgotten():
    residuals = Residuals()
    residuals.observe("a", 1.0, 2.0)
    residuals.forget("a")
    residuals.forget("a")
    assert residuals.factors == {}


@pytest.mark.parametrize(
    ("settings", "named"), [({"rate": 0.0}, "rate = 0.0"), ({"max_factor": 0.5}, "max_factor = 0.5")]
)
def test_settings_that_make_no_sense_are_named(settings, named):
    with pytest.raises(ValueError, match=named):
        Residuals(**settings)
