"""What can be read off a chart."""

import re
import xml.etree.ElementTree as xml

import pytest

from sglang_memserve.bench.chart import Panel, chart


def read(panels, **how):
    """The texts of a chart, and its lines' points."""
    elements = list(xml.fromstring(chart("title", "x", panels, **how)).iter())
    texts = [e.text for e in elements if e.tag.endswith("text")]
    lines = [e.get("points").split() for e in elements if e.tag.endswith("polyline")]
    return texts, [[tuple(map(float, point.split(","))) for point in line] for line in lines]


def test_a_linear_axis_begins_at_0_and_has_round_ticks():
    texts, ((first, *_, last),) = read([Panel("y", {"a": [(0, 0), (13, 0.7)]}, linear_x=True, linear_y=True)])
    assert {"0", "5", "10", "15", "0.2", "0.8"} <= set(texts)
    assert last[0] - first[0] == pytest.approx(360 * 13 / 15, abs=0.1)
    assert first[1] - last[1] == pytest.approx(260 * 0.7 / 0.8, abs=0.1)


def test_few_values_are_named_on_a_logarithmic_axis_and_many_are_not():
    texts, _ = read([Panel("y", {"a": [(3, 1), (7, 2)]})])
    assert {"3", "7"} <= set(texts)
    texts, _ = read([Panel("y", {"a": [(x, 1) for x in range(2, 30)]})])
    assert "13" not in texts
    assert {"1", "10", "100"} <= set(texts)


def test_panels_can_have_the_same_axes():
    panels = [Panel("y", {"a": [(1, 1), (2, 10)]}), Panel("y", {"b": [(1, 1000), (2, 1000)]})]
    _, (own, _) = read(panels)
    _, (shared, high) = read(panels, same_axes=True)
    assert own[1][1] < shared[1][1]
    assert high[0][1] == min(y for line in (own, shared, high) for _, y in line)


def test_a_panel_may_have_another_x_label_and_dots():
    panels = [
        Panel("y", {"a": [(1, 1), (2, 3)]}, x_label="of its own", dots=True),
        Panel("y", {"a": [(1, 1)]}),
    ]
    svg = chart("title", "x", panels)
    assert svg.count("<circle") == 2
    assert re.findall(">(of its own|x)<", svg) == ["of its own", "x"]
