"""What can be read off a chart."""

import pytest

from sglang_memserve.bench import chart
from sglang_memserve.bench.chart import Chart, Panel, Point, scale_of
from sglang_memserve.cluster.errors import ClusterError


def panel(curves, **how):
    points = {name: [Point(*point) for point in curve] for name, curve in curves.items()}
    return Panel(**{"x_label": "x (s)", "y_label": "y (ms)", "curves": points} | how)


def drawn(*panels, **how):
    """The axes of a chart, drawn."""
    figure = Chart("title", panels, **how).figure()
    figure.draw_without_rendering()
    return figure.axes


def ticks(axis):
    return [label.get_text() for label in axis.get_ticklabels()]


def test_a_linear_axis_begins_at_0():
    (axes,) = drawn(panel({"a": [(3, 2), (13, 7)]}, x_scale="linear", y_scale="linear"))
    assert (axes.get_xlim()[0], axes.get_ylim()[0]) == (0, 0)
    assert axes.get_xlim()[1] >= 13
    assert "10" in ticks(axes.xaxis)


def test_few_values_are_named_on_a_logarithmic_axis_and_many_are_not():
    (axes,) = drawn(panel({"a": [(3, 1), (7, 2)]}))
    assert ticks(axes.xaxis) == ["3", "7"]
    (axes,) = drawn(panel({"a": [(x, 1) for x in range(2, 30)]}))
    assert "13" not in ticks(axes.xaxis)
    assert {"5", "10", "20"} <= set(ticks(axes.xaxis))


@pytest.mark.parametrize("scale", ["linear", "log"])
def test_panels_with_the_same_axes_show_the_points_of_all(scale):
    small, large = panel({"a": [(1, 1), (2, 10)]}), panel({"b": [(1, 1000), (90, 1000)]})
    panels = [Panel(**vars(drawing) | {"x_scale": scale, "y_scale": scale}) for drawing in (small, large)]
    own, _ = drawn(*panels)
    assert own.get_ylim()[1] < 100
    for axes in drawn(*panels, same_axes=True):
        assert axes.get_ylim()[1] >= 1000
        assert axes.get_xlim()[1] >= 90
        assert all(label.get_visible() for label in axes.get_xticklabels())


def test_a_name_looks_the_same_in_every_panel_and_unlike_others():
    first, second = drawn(panel({"a": [(1, 1)], "b": [(1, 2)]}), panel({"b": [(1, 2)]}))
    looks = [[(line.get_color(), line.get_marker()) for line in axes.get_lines()] for axes in (first, second)]
    assert looks[0][1:] == looks[1]
    assert looks[0][0][0] != looks[0][1][0]
    assert looks[0][0][1] != looks[0][1][1]


def test_the_spread_of_the_rounds_is_a_bar_or_a_band():
    curve = {"a": [(1, 5, 4, 9), (2, 6, 5, 7)]}
    (bars,) = drawn(panel(curve))
    (segments,) = [lines.get_segments() for lines in bars.collections]
    assert [tuple(segment[:, 1]) for segment in segments] == [(4, 9), (5, 7)]
    (band,) = drawn(panel(curve, style="steps"))
    heights = band.collections[0].get_paths()[0].vertices[:, 1]
    assert (min(heights), max(heights)) == (4, 9)


def test_the_legend_names_each_curve_once_and_covers_none():
    made = Chart("title", [panel({"a": [(1, 1)], "b": [(1, 2)]}), panel({"b": [(2, 2)]})]).figure()
    made.draw_without_rendering()
    (legend,) = made.legends
    assert [text.get_text() for text in legend.get_texts()] == ["a", "b"]
    box = legend.get_window_extent()
    assert not any(box.overlaps(axes.get_window_extent()) for axes in made.axes)


def test_five_panels_are_no_strip():
    width, height = Chart("t", [panel({"a": [(1, 1)]})] * 5).figure().get_size_inches()
    assert width < 2 * height


@pytest.mark.parametrize(("name", "begins"), [("x.png", b"\x89PNG"), ("x.svg", b"<?xml")])
def test_a_file_is_of_the_format_that_its_ending_says(tmp_path, name, begins):
    made = Chart("title <1>", [panel({"a": [(1, 1), (2, 2)]})])
    made.save(tmp_path / name)
    first = (tmp_path / name).read_bytes()
    assert first.startswith(begins)
    made.save(tmp_path / name)
    assert (tmp_path / name).read_bytes() == first


def test_texts_of_an_svg_can_be_searched(tmp_path):
    Chart("title <1>", [panel({"a": [(1, 1)]})]).save(tmp_path / "x.svg")
    text = (tmp_path / "x.svg").read_text()
    assert "title &lt;1&gt;" in text
    assert "y (ms)" in text


@pytest.mark.parametrize(
    ("panels", "file", "complaint"),
    [
        ([panel({})], "x.png", r"y \(ms\)"),
        ([], "x.png", "nothing"),
        ([panel({"a": [(1, 1)]})], "x.pdf", "x.pdf"),
    ],
)
def test_what_cannot_be_drawn_is_refused(tmp_path, panels, file, complaint):
    with pytest.raises(ValueError, match=complaint):
        Chart("title", panels).save(tmp_path / file)
    assert not list(tmp_path.iterdir())


def test_without_matplotlib_the_command_that_installs_it_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(chart, "find_spec", lambda _: None)
    with pytest.raises(ClusterError, match=r"pip install '\.\[bench\]'"):
        Chart("title", [panel({"a": [(1, 1)]})]).save(tmp_path / "x.png")


def test_only_values_that_span_much_get_a_logarithmic_axis():
    assert scale_of([1, 100]) == "log"
    assert scale_of([1, 10]) == scale_of([0, 100]) == scale_of([]) == "linear"
