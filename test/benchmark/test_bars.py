import json

import pytest

from benchmark.bars import at_least, at_most, conclude


@pytest.mark.parametrize(
    ("bar", "ok"),
    [
        (at_most("x", 1.0, 1.0, "ms", "peer"), True),
        (at_most("x", 1.01, 1.0, "ms", "peer"), False),
        (at_least("x", 2.0, 2.0, "x", "peer"), True),
        (at_least("x", 1.9, 2.0, "x", "peer"), False),
        (at_most("x", None, 1.0, "ms", "peer"), False),
        (at_least("x", None, 1.0, "ms", "peer"), False),
    ],
)
def test_a_bar_is_met_only_by_a_figure_that_was_measured(bar, ok):
    assert bar.ok is ok


def test_the_report_is_one_json_object_that_names_a_skipped_peer(capsys):
    bar = at_most("handoff", None, 1.0, "x", "Mooncake")
    conclude({"cores": 2}, {"short": {}}, [bar], ["Mooncake: --without-peer"], json=True)
    *shown, written = capsys.readouterr().out.splitlines()
    assert json.loads(written) == {
        "machine": {"cores": 2},
        "results": {"short": {}},
        "bars": [
            {"name": "handoff", "value": None, "unit": "x", "peer": "Mooncake", "bar": 1.0, "ok": False}
        ],
        "skipped": ["Mooncake: --without-peer"],
    }
    assert "MISSED  handoff: not measured" in shown[0]
    assert "SKIPPED Mooncake" in shown[1]


def test_without_json_the_bars_are_shown_alone(capsys):
    conclude({}, {}, [at_most("handoff", 0.5, 1.0, "x", "Mooncake")], json=False)
    assert capsys.readouterr().out == "met     handoff: 0.5 x (bar 1, against Mooncake)\n"
