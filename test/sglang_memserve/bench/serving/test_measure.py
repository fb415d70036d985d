"""Figures out of records whose figures are known."""

import pytest

from sglang_memserve.bench.serving.answer import ReplayRecord, StreamedAnswer
from sglang_memserve.bench.serving.measure import Slo, errors, figures, offered_per_s
from sglang_memserve.bench.serving.replay import ReplayResult


def record(ttft, tpot=0.05, tokens=3, asked=3, late=0.0, **fields):
    times = [ttft + tpot * n for n in range(tokens)]
    answer = StreamedAnswer(times, end=times[-1] + 0.001, reported_tokens=tokens, finished=True, **fields)
    return ReplayRecord("s", 1, planned=1.0, sent=1.0 + late, asked_tokens=asked, answer=answer)


def failed(error="refused"):
    return ReplayRecord("s", 1, planned=1.0, sent=1.0, asked_tokens=3, error=error)


def test_latencies_are_those_of_the_answers():
    run = ReplayResult([record(n / 100, tpot=n / 1000) for n in range(1, 101)], planned=100, seconds=50.0)
    found = figures(run, Slo())
    assert found["ttft_avg_ms"] == pytest.approx(505)
    assert (found["ttft_p50_ms"], found["ttft_p99_ms"]) == pytest.approx((500, 990))
    assert (found["tpot_avg_ms"], found["tpot_p99_ms"]) == pytest.approx((50.5, 99))
    # Of the slowest but one: 0.99 s, two gaps of 99 ms, and 1 ms to the end of the stream.
    assert found["jct_p99_ms"] == pytest.approx(990 + 198 + 1)
    assert found["served_per_s"] == 2


def test_tokens_that_came_together_count_each():
    answer = StreamedAnswer([0.1, 0.4, 0.4, 0.4], 0.5, reported_tokens=4)
    assert answer.tpot == pytest.approx(0.1)


def test_goodput_counts_what_meets_both_limits():
    run = ReplayResult(
        [record(0.1, 0.01), record(0.3, 0.01), record(0.1, 0.2), failed()], planned=4, seconds=2.0
    )
    assert figures(run, Slo(ttft=0.2, tpot=0.1))["goodput_per_s"] == 0.5
    assert figures(run, Slo(ttft=0.2))["goodput_per_s"] == 1.0
    assert figures(run, Slo())["goodput_per_s"] == figures(run, Slo())["served_per_s"] == 1.5


def test_an_answer_of_one_token_misses_no_limit_per_token():
    assert Slo(tpot=0.001).met(record(0.1, tokens=1).answer)


def test_failures_and_unsent_requests_stand_beside_latencies():
    found = figures(ReplayResult([record(0.1), failed(), failed("gone")], planned=10, seconds=1.0), Slo())
    assert (found["failed_percent"], found["unsent_percent"]) == (20, 70)
    assert (found["sent_per_s"], found["served_per_s"]) == (3, 1)
    assert errors([failed(), failed("gone"), failed()]) == {"refused": 2, "gone": 1}


def test_where_nothing_was_answered_there_is_no_latency():
    found = figures(ReplayResult([failed()], planned=1, seconds=1.0), Slo(ttft=1.0))
    assert not any("ttft" in name or "jct" in name for name in found)
    assert (found["failed_percent"], found["goodput_per_s"]) == (100, 0)


def test_tokens_are_counted_by_where_they_came_from():
    records = [
        record(0.1, prompt_tokens=100, cached_tokens=80, cached_by={"device": 64, "host": 16}),
        record(0.1, prompt_tokens=50, cached_tokens=0),
        record(0.1, prompt_tokens=1000),  # says nothing of a cache, so it says nothing of what was computed
    ]
    found = figures(ReplayResult(records, planned=3, seconds=1.0), Slo())
    assert (found["prompt_tokens"], found["cached_tokens"], found["computed_tokens"]) == (150, 80, 70)
    assert (found["cached_device_tokens"], found["cached_host_tokens"]) == (64, 16)
    assert found["cached_percent"] == pytest.approx(53.3, abs=0.1)
    assert found["output_tokens"] == 9


def test_what_no_server_reports_is_left_out():
    found = figures(ReplayResult([record(0.1)], planned=1, seconds=1.0), Slo())
    assert "cached_tokens" not in found
    assert "prompt_tokens" not in found


def test_answers_cut_short_are_counted():
    run = ReplayResult([record(0.1, tokens=2, asked=3), record(0.1)], planned=2, seconds=1.0)
    assert figures(run, Slo())["short_answers"] == 1


def test_lateness_is_the_clients_own():
    run = ReplayResult([record(0.1, late=n / 1000) for n in range(1, 101)], planned=100, seconds=1.0)
    assert figures(run, Slo())["late_p99_ms"] == pytest.approx(99)


def test_the_offered_load_follows_from_the_arrivals(dialogue):
    turns = [dialogue.turn()] * 3
    assert offered_per_s(dialogue(1.0, 2.0, 3.0, 5.0, turns=turns)) == pytest.approx(3 * 3 / 4)
    assert offered_per_s(dialogue(0.0, 0.0)) is None
