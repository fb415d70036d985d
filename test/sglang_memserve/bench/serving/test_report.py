"""What a reader of the report sees."""

import json
import re

import pytest

from sglang_memserve.bench.serving import plots, report
from sglang_memserve.bench.serving.answer import ReplayRecord, StreamedAnswer
from sglang_memserve.bench.serving.measure import Slo, figures
from sglang_memserve.bench.serving.replay import ReplayResult
from sglang_memserve.bench.serving.rounds import Lap


def lap(arm, number, ttft, workload="w", slo=None, errors=0, late=0.0, **fields):
    records = [
        ReplayRecord(
            "s",
            n + 1,
            n,
            n + late,
            2,
            StreamedAnswer([ttft, ttft + 0.05], ttft + 0.06, reported_tokens=2, **fields),
        )
        for n in range(3)
    ]
    records += [ReplayRecord("t", 1, 0.0, 0.0, 2, error="503: full")] * errors
    run = ReplayResult(records, planned=4 + errors, seconds=4.0)
    return Lap(number, workload, arm, run, figures(run, slo or Slo()))


def table(laps, slo=None):
    results = report.collected(laps).results()
    return report.tables(results, {name: f"heading of {name}" for name in results}, slo or Slo())


def row(text, label):
    (found,) = (line for line in text.splitlines() if line.startswith(label))
    return re.split(r"\s{2,}", found[len(label) :].strip())


def test_a_cell_has_the_median_of_the_rounds_and_their_spread():
    laps = [lap("a", n, ttft) for n, ttft in enumerate([0.5, 0.2, 0.9], 1)]
    assert row(table([*laps, lap("b", 1, 0.1)]), "TTFT P50, ms") == ["500 (200 - 900)", "100"]


def test_arms_stand_in_the_order_in_which_they_were_named():
    laps = [lap(arm, number, 0.1) for number, arm in enumerate("cbaabc")]
    assert list(report.collected(laps, ["a", "b", "c"]).results()["w"]) == ["a", "b", "c"]


def test_errors_and_load_stand_beside_the_latencies():
    text = table([lap("a", 1, 0.1, errors=2)])
    assert row(text, "requests failed, %") == ["33.3"]
    assert row(text, "never sent (session had failed), %") == ["16.7"]
    assert row(text, "requests answered a second") == ["0.75"]


def test_what_was_not_reported_is_said():
    text = table([lap("a", 1, 0.1), lap("b", 1, 0.1, prompt_tokens=100, cached_tokens=50)])
    assert row(text, "from a cache, %") == ["not reported", "50"]
    assert row(text, "KV from prefill to decode, MB") == ["not reported", "not reported"]


def test_goodput_is_shown_with_its_limits_and_only_with_them():
    slo = Slo(ttft=0.3)
    laps = [lap("a", 1, 0.1, slo=slo), lap("b", 1, 0.5, slo=slo)]
    assert row(table(laps, slo), "within the SLO a second (TTFT <= 300 ms)") == ["0.75", "0"]
    assert "SLO" not in table(laps)


def test_each_workload_has_its_table():
    text = table([lap("a", 1, 0.1, "one"), lap("a", 1, 0.1, "two")])
    assert text.index("heading of one") < text.index("heading of two")


def test_warnings_name_what_makes_a_figure_doubtful():
    doubts = report.warnings([lap("a", 2, 0.1, errors=2), lap("b", 1, 0.1, late=0.1)])
    assert doubts[0] == "w, a, round 2: 2 x 503: full"
    assert "b, round 1: the client itself sent late, 100 ms" in doubts[1]
    assert report.warnings([lap("a", 1, 0.1)]) == []


def test_there_is_a_line_for_each_request():
    lines = [json.loads(line) for line in report.records_jsonl([lap("a", 1, 0.1, errors=1)]).splitlines()]
    assert [line["error"] for line in lines] == [None, None, None, "503: full"]
    assert lines[1] | {"ttft": 0.1, "turn": 2, "arm": "a", "round": 1, "late": 0} == lines[1]
    assert lines[3]["ttft"] is None


def test_latency_is_drawn_over_rate_with_the_spread_of_the_rounds():
    laps = [lap(arm, n, n * rate / 10, f"w{rate}") for arm in "ab" for rate in (1, 2, 4) for n in (1, 2, 3)]
    results = report.collected(laps).results()
    ttft, *others = plots.over_rate(results, {"w1": 1, "w2": 2, "w4": 4}).panels
    assert len(others) == 4
    assert ttft.y_label == "TTFT P50 (ms)"
    assert list(ttft.curves) == ["a", "b"]
    assert ttft.curves["a"] == [
        pytest.approx((rate, 200 * rate, 100 * rate, 300 * rate)) for rate in (1, 2, 4)
    ]


def test_one_rate_makes_no_curve():
    with pytest.raises(ValueError, match="one rate"):
        plots.over_rate(report.collected([lap("a", 1, 0.1)]).results(), {"w": 1.0})


def test_a_distribution_rises_from_0_to_all_answers():
    ttft, tpot, _ = plots.distributions("w", [lap("a", 1, 0.1), lap("a", 2, 0.2)]).panels
    curve = ttft.curves["a"]
    assert [point.x for point in curve] == [100, 100, 200]
    assert [point.y for point in curve] == [0, 0.5, 1]
    # One round has all its answers at 100 ms, the other none.
    assert [(point.low, point.high) for point in curve] == [(0, 0), (0, 1), (1, 1)]
    assert tpot.x_scale == "linear"


def test_the_timeline_has_a_dot_for_each_answer():
    chart = plots.timeline("w", [lap("a", 1, 0.1, errors=3), lap("b", 1, 0.2)])
    assert [(list(panel.curves), len(panel.points)) for panel in chart.panels] == [(["a"], 3), (["b"], 3)]
    assert chart.same_axes
