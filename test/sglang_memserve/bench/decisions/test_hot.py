"""The load of a hot prefix."""

from random import Random

import pytest

from sglang_memserve.bench.decisions.hot import OWN, rising, workload


def test_each_rate_has_its_time_and_its_requests():
    due = rising([5.0, 50.0], 10.0, Random(1))
    assert due == sorted(due)
    assert max(due) < 20
    early = sum(at < 10 for at in due)
    assert early == pytest.approx(50, abs=25)
    assert len(due) - early == pytest.approx(500, abs=80)


def test_the_same_seed_asks_for_the_same_at_the_same_moments():
    assert rising([1.0, 2.0], 5.0, Random(7)) == rising([1.0, 2.0], 5.0, Random(7))
    assert workload([1] * 32, [0.5], Random(7)) == workload([1] * 32, [0.5], Random(7))


def test_all_prompts_begin_alike_and_go_on_each_in_its_own_way():
    sessions = workload([7] * 32, [0.5, 1.5], Random(1)).sessions
    assert [session.arrival for session in sessions] == [0.5, 1.5]
    first, second = (session.turns[0].tokens for session in sessions)
    assert first[:32] == second[:32] == (7,) * 32
    assert first[32:] != second[32:]
    assert len(first) == 32 + OWN
