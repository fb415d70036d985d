"""What bench_cost_model calls a bar met."""

import json
import sys

import pytest

from benchmark.cost.grid import Cell
from benchmark.cost.h100 import Errors
from benchmark.cost.live import ARCHITECTURE, OPERATORS, Live

CELLS = Cell(64, 0, 1), Cell(2000, 1600, 2)


@pytest.fixture(scope="module")
def bench(load_script):
    return load_script("bench_cost_model")


def live(operators, architecture, calibration_s=90.0):
    """Two cells of 1 s, in the median of three rounds, and predictions for them."""
    measured = {cell: [9.0, 1.0, 0.5] for cell in CELLS}
    predicted = {OPERATORS: operators, ARCHITECTURE: architecture}
    by_cell = {way: dict(zip(CELLS, values, strict=True)) for way, values in predicted.items()}
    return Live(calibration_s, None, by_cell, measured)


def test_too_much_and_too_little_do_not_cancel_out(bench):
    calibration, error = bench.live_bars(live([0.88, 1.12], [1.5, 1.5]))
    assert calibration.ok
    assert error.value == pytest.approx(12.0)
    assert not error.ok
    assert "50.0 %" in error.peer
    assert bench.live_bars(live([0.92, 1.1], [1.0, 1.0]))[1].ok


def test_a_long_calibration_misses_its_bar(bench):
    assert not bench.live_bars(live([1.0, 1.0], [1.0, 1.0], 121.0))[0].ok


def test_on_h100_the_polynomial_must_err_more(bench):
    better, worse = ({1: 0.01, 2: error} for error in (0.05, 0.15))
    (won,) = bench.h100_bars({"rows": Errors(better, worse, {})})
    (lost,) = bench.h100_bars({"rows": Errors(better, {1: 0.0, 2: 0.04}, {})})
    (far,) = bench.h100_bars({"rows": Errors(worse, {1: 0.0, 2: 0.5}, {})})
    assert (won.ok, lost.ok, far.ok) == (True, False, False)


def test_without_tables_nothing_is_judged_and_it_says_why(bench, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["bench", "--only-h100", "--json", "--tables", str(tmp_path)])
    assert bench.main() == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert report["bars"] == []
    assert any("vidur" in line for line in report["skipped"])


def test_the_table_and_the_chart_show_both_ways(bench):
    found = live([1.1, 0.9], [1.5, 0.5])
    assert "+10.0 %" in bench.table(found)
    assert "-50.0 %" in bench.table(found)
    assert [len(panel.points) for panel in bench.plotted(found).panels] == [2, 2]
