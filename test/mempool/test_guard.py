"""An unexpected error ends what was being done, and not the loop around it."""

import logging

import pytest
from manual_clock import Clock

from mempool.guard import LoopGuard


@pytest.fixture
def clock():
    return Clock(1000.0)


@pytest.fixture
def guard(clock):
    return LoopGuard("reading a message", clock)


def fail(guard, error):
    with guard:
        raise error


def test_a_loop_goes_on_after_each_error_and_counts_them(guard):
    for error in (ValueError("a"), RecursionError("b"), MemoryError(), UnicodeError("c"), KeyError("d")):
        fail(guard, error)
    with guard:
        pass
    assert guard.errors == 5


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(1), GeneratorExit()])
def test_what_ends_a_process_is_not_held_back(guard, error):
    with pytest.raises(type(error)):
        fail(guard, error)
    assert guard.errors == 0


def test_an_error_that_is_repeated_is_logged_once_a_minute(guard, clock, caplog):
    with caplog.at_level(logging.ERROR):
        for _ in range(1000):
            fail(guard, ValueError("a frame"))
        fail(guard, KeyError("another"))
        assert [record.exc_info[0] for record in caplog.records] == [ValueError, KeyError]
        clock.now += 61
        fail(guard, ValueError("a frame"))
    assert caplog.messages[-1] == "reading a message failed (999 more like it were not logged)"
    assert guard.errors == 1002
