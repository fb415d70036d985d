"""Charts as SVG: what `--plot` of a benchmark writes. Axes are logarithmic unless a panel says otherwise."""

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import NamedTuple

_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
_WIDTH, _HEIGHT, _LEFT, _TOP, _GAP = 360, 260, 70, 60, 90
_MOST_TICKS = 8

Points = Sequence[tuple[float, float]]


class Panel(NamedTuple):
    """`lines`: by name, points in the order of x; coordinates of a logarithmic axis above 0.

    `x_label` stands in for the chart's. A linear axis begins at 0. `dots` leaves the points unconnected.
    """

    y_label: str
    lines: Mapping[str, Points]
    x_label: str | None = None
    linear_x: bool = False
    linear_y: bool = False
    dots: bool = False


class _Axis(NamedTuple):
    low: float
    high: float
    ticks: Sequence[float]
    linear: bool = False

    def share(self, value: float) -> float:
        """Where on the axis: 0 to 1."""
        if self.linear:
            return (value - self.low) / (self.high - self.low)
        return math.log(value / self.low) / (math.log(self.high / self.low) or 1.0)


def chart(title: str, x_label: str, panels: Sequence[Panel], same_axes: bool = False) -> str:
    """Panels side by side, the same colour for the same name, and the same axes if told so.

    Raises ValueError where there is no point.
    """
    names = list(dict.fromkeys(name for panel in panels for name in panel.lines))
    parts = [_text(_LEFT, 24, title, size=15)]
    for number, name in enumerate(names):
        x = _LEFT + 180 * number
        parts += [
            f'<path d="M{x} 42h22" stroke="{_colour(number)}" stroke-width="3"/>',
            _text(x + 28, 46, name),
        ]
    for number, panel in enumerate(panels):
        points = _points(panels if same_axes else [panel])
        parts += _panel(panel, points, names, _LEFT + number * (_WIDTH + _GAP), panel.x_label or x_label)
    width = _LEFT + max(len(panels) * (_WIDTH + _GAP), 180 * len(names))
    height = _TOP + _HEIGHT + 60
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif">'
    return "\n".join([head, f'<rect width="{width}" height="{height}" fill="white"/>', *parts, "</svg>", ""])


def _points(panels: Sequence[Panel]) -> list[tuple[float, float]]:
    return [point for panel in panels for line in panel.lines.values() for point in line]


def _panel(panel: Panel, points: Points, names: list[str], left: int, x_label: str) -> list[str]:
    """`points`: those that the axes are to hold."""
    if not points:
        raise ValueError(f"nothing was measured for {panel.y_label!r}")
    across = (_linear if panel.linear_x else _measured)([x for x, _ in points])
    up = (_linear if panel.linear_y else _decades)([y for _, y in points])
    bottom = _TOP + _HEIGHT

    def place(x: float, y: float) -> tuple[float, float]:
        return left + across.share(x) * _WIDTH, bottom - up.share(y) * _HEIGHT

    parts = [f'<path d="M{left} {_TOP}V{bottom}h{_WIDTH}" fill="none" stroke="black"/>']
    for x in across.ticks:
        parts.append(_text(place(x, up.low)[0], bottom + 18, f"{x:g}", anchor="middle"))
    for y in up.ticks:
        height = place(across.low, y)[1]
        parts.append(f'<path d="M{left} {height:.1f}h{_WIDTH}" stroke="#ddd"/>')
        parts.append(_text(left - 8, height + 4, f"{y:,g}", anchor="end"))
    parts.append(_text(left + _WIDTH / 2, bottom + 40, x_label, anchor="middle"))
    parts.append(_text(left + 8, _TOP + 14, panel.y_label))
    for name, line in panel.lines.items():
        parts += _drawn([place(*point) for point in line], _colour(names.index(name)), panel.dots)
    return parts


def _drawn(places: Points, colour: str, dots: bool) -> list[str]:
    if dots:
        return [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" fill="{colour}"/>' for x, y in places]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    return [f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2.5"/>']


def _measured(values: Sequence[float]) -> _Axis:
    """Logarithmic, with a tick at each value while these are few."""
    ticks = sorted(set(values))
    return _Axis(ticks[0], ticks[-1], ticks) if len(ticks) <= _MOST_TICKS else _decades(values)


def _decades(values: Sequence[float]) -> _Axis:
    """Logarithmic, from a power of ten to another."""
    low = math.floor(math.log10(min(values)))
    high = max(low + 1, math.ceil(math.log10(max(values))))
    between = (1, 2, 5) if high - low < 3 else (1,)
    ticks = [step * 10.0**power for power in range(low, high) for step in between]
    return _Axis(10.0**low, 10.0**high, [*ticks, 10.0**high])


def _linear(values: Sequence[float]) -> _Axis:
    """From 0 to a whole number of steps of 1, 2 or 5 times a power of ten."""
    most = max(values) or 1.0
    power = 10.0 ** math.floor(math.log10(most / 5))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor * 5 >= most)
    count = math.ceil(most / step - 1e-9)
    return _Axis(0.0, step * count, [step * number for number in range(count + 1)], linear=True)


def _text(x: float, y: float, text: str, size: int = 12, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}">{escape(text)}</text>'


def _colour(number: int) -> str:
    return _COLOURS[number % len(_COLOURS)]
