"""What the router's records say of a hot prefix."""

import pytest

from benchmark.decisions.spread import HotPrefixSpread, bars
from sglang_memserve.bench.figures import Rounds
from sglang_memserve.bench.serving.answer import ReplayRecord, StreamedAnswer

HOT, OTHER = "http://hot:1", "http://other:1"


def decision(chosen, hot_queue, other_queue=0.0, how="recompute", computing=2000.0):
    """`how` the other one would come by the KV, in `computing` ms."""
    prices = {
        HOT: {"plan": "route", "queue_ms": hot_queue, "exec_ms": 100.0},
        OTHER: {"plan": how, "queue_ms": other_queue, "exec_ms": computing},
    }
    return {"decode": chosen, "candidates": [{"url": url, "cost": price} for url, price in prices.items()]}


def record(planned, ttft):
    return ReplayRecord("s", 1, planned, planned, 4, StreamedAnswer(token_times=[ttft]))


def spread(*decisions, policy="cost_model", records=()):
    return HotPrefixSpread(policy, 50e6, HOT, 2200.0, {1.0: 0.0, 3.0: 10.0}, records, decisions)


def unpriced(chosen):
    return {"decode": chosen, "candidates": [{"url": url, "cost": None} for url in (HOT, OTHER)]}


def met(observed):
    return [bar.ok for bar in bars([observed])]


def test_waiting_less_than_computing_elsewhere_is_right():
    found = spread(decision(HOT, 0.0), decision(HOT, 1999.0), decision(OTHER, 2001.0))
    assert found.share == pytest.approx(2 / 3)
    assert found.beyond == 0
    assert found.described()["longest_queue_at_hot_ms"] == 1999.0
    assert found.ways == {"route": 2, "recompute": 1}
    assert met(found) == [True, True]


def test_a_queue_that_costs_more_than_computing_elsewhere_is_counted():
    assert met(spread(decision(HOT, 2001.0), decision(OTHER, 0.0))) == [False, True]


def test_the_other_ones_queue_is_part_of_what_computing_there_costs():
    assert spread(decision(HOT, 2500.0, other_queue=600.0)).beyond == 0
    assert spread(decision(HOT, 2500.0, other_queue=400.0)).beyond == 1


@pytest.mark.parametrize("how", ["fetch", "route"])
def test_computing_elsewhere_costs_what_the_profile_says(how):
    assert spread(decision(HOT, 2201.0, how=how, computing=50.0)).beyond == 1
    assert spread(decision(HOT, 2199.0, how=how, computing=50.0)).beyond == 0


def test_a_router_that_never_spreads_misses_the_bar():
    assert met(spread(decision(HOT, 0.0), decision(HOT, 10.0))) == [True, False]


def test_under_prompt_tree_all_are_to_pile_up():
    assert met(spread(unpriced(HOT), unpriced(HOT), policy="prompt_tree")) == [True]
    assert met(spread(unpriced(HOT), unpriced(OTHER), policy="prompt_tree")) == [False]


def test_no_bar_is_met_where_requests_failed_or_were_not_decided_upon():
    lost = ReplayRecord("s", 1, 1.0, 1.0, 4, error="refused")
    assert met(spread(decision(HOT, 0.0), decision(OTHER, 0.0), records=[record(0, 1), lost])) == [
        False,
        False,
    ]
    assert met(spread(policy="prompt_tree")) == [False]
    assert met(spread()) == [True, False]


def test_latencies_are_grouped_by_the_request_rate():
    rounds = Rounds()
    found = spread(
        unpriced(HOT), policy="prompt_tree", records=[record(1, 0.1), record(9, 0.3), record(10, 5.0)]
    )
    found.note(rounds)
    results = {rate: arms[found.name] for rate, arms in rounds.results().items()}
    assert results["hot prefix, 1 a second"]["ttft_p99_ms"]["median"] == pytest.approx(300)
    assert results["hot prefix, 3 a second"]["requests"]["median"] == 1
    assert results["hot prefix, all of it"]["ttft_p99_ms"]["median"] == pytest.approx(5000)
