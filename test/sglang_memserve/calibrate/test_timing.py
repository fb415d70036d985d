import pytest
import torch

from sglang_memserve.calibrate.timing import CallTimer


@pytest.fixture
def clock(monkeypatch):
    """A clock that calls can put forward."""
    now = [0.0]
    monkeypatch.setattr("sglang_memserve.calibrate.timing.time.perf_counter", lambda: now[0])
    return now


def test_it_is_the_median_without_the_first_call(clock):
    takes = [50.0, 1.0, 9.0, 2.0]

    def call(number):
        clock[0] += takes[number]

    assert CallTimer(torch.device("cpu"), budget_s=0.0).seconds(call) == 2.0


def test_short_calls_are_repeated_and_long_ones_are_not(clock):
    numbers = []

    def call(seconds, number):
        numbers.append(number)
        clock[0] += seconds

    timer = CallTimer(torch.device("cpu"), budget_s=1.0, min_calls=3, max_calls=20)
    timer.seconds(lambda number: call(0.1875, number))
    assert numbers == list(range(7))
    numbers.clear()
    timer.seconds(lambda number: call(30.0, number))
    assert numbers == list(range(4))
    numbers.clear()
    timer.seconds(lambda number: call(0.0, number))
    assert len(numbers) == 21
