"""Charts of measured figures, as PNG or SVG. Drawn by matplotlib, which is loaded only to draw."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from sglang_memserve.cluster.errors import ClusterError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, which the colour-blind can tell apart; markers and dashes differ too.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_DASHES = ("-", "--", "-.", ":")
_PANEL_INCHES = (4.6, 3.4)
_MAX_COLUMNS = 3
_MAX_NAMED_TICKS = 8
_STYLE: Any = {
    "font.size": 10.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.fonttype": "none",  # texts stay texts
    "svg.hashsalt": "memserve",  # the same figures make the same file
}
FORMATS = ("png", "svg")

Scale = Literal["linear", "log"]
Style = Literal["line", "steps", "dots"]


class Point(NamedTuple):
    """`y` at `x`. `low` and `high`: the spread of y over the rounds, where it is known."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None

    @classmethod
    def of(cls, x: float, spread: Mapping[str, float]) -> Point:
        """From median, low and high, as Rounds gives them."""
        return cls(x, spread["median"], spread["low"], spread["high"])


Curves = Mapping[str, Sequence[Point]]
"""By name, points in the order of x."""


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One pair of axes. Labels carry the unit. A linear axis begins at 0; a logarithmic one has no 0.

    `line` joins the points, with a bar for each spread; `steps` is a distribution, with a band for the
    spread; `dots` are not joined. `diagonal` marks where y equals x.
    """

    x_label: str
    y_label: str
    curves: Curves
    style: Style = "line"
    x_scale: Scale = "log"
    y_scale: Scale = "log"
    diagonal: bool = False

    @property
    def points(self) -> list[Point]:
        return [point for curve in self.curves.values() for point in curve]


@dataclass(frozen=True)
class Chart:
    """Panels side by side. A name has the same colour and marker in all of them.

    `same_axes`: all panels have the limits of the largest.
    """

    title: str
    panels: Sequence[Panel]
    same_axes: bool = False

    def save(self, file: Path) -> None:
        """Writes PNG or SVG, by the file's ending. Raises ValueError where there is nothing to draw."""
        if file.suffix[1:] not in FORMATS:
            raise ValueError(f"{file.name} is neither .png nor .svg")
        for panel in self.panels:
            if not panel.points:
                raise ValueError(f"nothing was measured for {panel.y_label!r}")
        if not self.panels:
            raise ValueError("nothing was measured")
        require_matplotlib()
        import matplotlib as mpl

        # No date in the file: a drawing of the same figures is the same file.
        metadata = {"Date": None} if file.suffix == ".svg" else {}
        with mpl.rc_context(_STYLE):
            self.figure().savefig(file, dpi=150, metadata=metadata)

    def figure(self) -> Figure:
        """The drawing, as matplotlib has it."""
        from matplotlib.figure import Figure

        columns = _columns(len(self.panels))
        rows = -(-len(self.panels) // columns)
        width, height = columns * _PANEL_INCHES[0], rows * _PANEL_INCHES[1] + 0.8
        figure = Figure(figsize=(width, height), layout="constrained")
        grid = figure.subplots(
            rows, columns, squeeze=False, sharex=self.same_axes, sharey=self.same_axes
        ).ravel()
        names = list(dict.fromkeys(name for panel in self.panels for name in panel.curves))
        for axes, panel in zip(grid, self.panels, strict=False):
            _draw(axes, panel, names)
        # When all is drawn: the limits of shared axes follow from every panel.
        for axes, panel in zip(grid, self.panels, strict=False):
            _begin_at_0(axes, panel)
        for axes in grid[len(self.panels) :]:
            axes.remove()
        handles = {label: h for axes in figure.axes for h, label in zip(*_legend(axes), strict=True)}
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=2 * columns)
        figure.suptitle(textwrap.fill(self.title, round(width * 10)))
        return figure


def require_matplotlib() -> None:
    """Raises ClusterError where it is not installed."""
    if find_spec("matplotlib") is None:
        raise ClusterError("drawing needs matplotlib: pip install '.[bench]'")


def scale_of(values: Iterable[float]) -> Scale:
    """Logarithmic for what spans more than a decade and a half without a 0, linear for all else."""
    found = list(values)
    spans = found and min(found) > 0 and max(found) / min(found) > 30
    return "log" if spans else "linear"


def _columns(panels: int) -> int:
    return panels if panels <= _MAX_COLUMNS else math.ceil(panels / math.ceil(panels / _MAX_COLUMNS))


def _draw(axes: Axes, panel: Panel, names: Sequence[str]) -> None:
    for name, curve in panel.curves.items():
        number = names.index(name)
        colour = _COLOURS[number % len(_COLOURS)]
        marker, dash = _MARKERS[number % len(_MARKERS)], _DASHES[number % len(_DASHES)]
        xs, ys = [point.x for point in curve], [point.y for point in curve]
        if panel.style == "dots":
            axes.plot(
                xs, ys, linestyle="none", marker=marker, markersize=4, alpha=0.7, color=colour, label=name
            )
        elif panel.style == "steps":
            axes.plot(xs, ys, drawstyle="steps-post", linestyle=dash, color=colour, label=name)
            _band(axes, curve, colour)
        else:
            axes.errorbar(
                xs,
                ys,
                yerr=_bars(curve),
                linestyle=dash,
                marker=marker,
                markersize=5,
                capsize=3,
                color=colour,
                label=name,
            )
    if panel.diagonal:
        axes.axline((1, 1), (2, 2), color="grey", linewidth=1, linestyle=":", label="equal")
    axes.set_xlabel(panel.x_label)
    axes.set_ylabel(panel.y_label)
    axes.grid(alpha=0.3)
    axes.tick_params(labelbottom=True, labelleft=True)
    axes.set(xscale=panel.x_scale, yscale=panel.y_scale)
    _name_ticks(axes.xaxis, panel.x_scale, sorted({point.x for point in panel.points}))
    _name_ticks(axes.yaxis, panel.y_scale, [])


def _begin_at_0(axes: Axes, panel: Panel) -> None:
    # A marker at 0 keeps its margin.
    if panel.x_scale == "linear" and (panel.style == "steps" or min(point.x for point in panel.points) > 0):
        axes.set_xlim(left=0)
    if panel.y_scale == "linear":
        axes.set_ylim(bottom=0)


def _name_ticks(axis: Any, scale: Scale, values: Sequence[float]) -> None:
    """Plain numbers. Each of `values` has a tick on a logarithmic axis, while they are few."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter, NullLocator

    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    if scale == "linear":
        return
    if 1 < len(values) <= _MAX_NAMED_TICKS:
        axis.set_major_locator(FixedLocator(list(values)))
        axis.set_minor_locator(NullLocator())
    else:
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_minor_formatter(NullFormatter())


def _bars(curve: Sequence[Point]) -> Any:
    """Lengths of the spread below and above each point, or None where none is known."""
    if all(point.low is None or point.high is None for point in curve):
        return None
    below = [point.y - (point.y if point.low is None else point.low) for point in curve]
    above = [(point.y if point.high is None else point.high) - point.y for point in curve]
    return [below, above]


def _band(axes: Axes, curve: Sequence[Point], colour: str) -> None:
    spread = [(x, low, high) for x, _, low, high in curve if low is not None and high is not None]
    axes.fill_between(
        [x for x, _, _ in spread],
        [low for _, low, _ in spread],
        [high for _, _, high in spread],
        step="post",
        color=colour,
        alpha=0.15,
        linewidth=0,
    )


def _legend(axes: Axes) -> tuple[list[Any], list[str]]:
    handles, labels = axes.get_legend_handles_labels()
    return list(handles), list(labels)
