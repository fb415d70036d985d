"""Line charts as SVG, both axes logarithmic: what `--plot` of a benchmark writes."""

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import NamedTuple

_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
_WIDTH, _HEIGHT, _LEFT, _TOP, _GAP = 360, 260, 70, 60, 90

Points = Sequence[tuple[float, float]]


class Panel(NamedTuple):
    """`lines`: by name, points in the order of x; both coordinates above 0."""

    y_label: str
    lines: Mapping[str, Points]


def chart(title: str, x_label: str, panels: Sequence[Panel]) -> str:
    """Panels side by side, the same colour for the same name. Raises ValueError where there is no point."""
    names = list(dict.fromkeys(name for panel in panels for name in panel.lines))
    parts = [_text(_LEFT, 24, title, size=15)]
    for number, name in enumerate(names):
        x = _LEFT + 180 * number
        parts += [
            f'<path d="M{x} 42h22" stroke="{_colour(number)}" stroke-width="3"/>',
            _text(x + 28, 46, name),
        ]
    for number, panel in enumerate(panels):
        parts += _panel(panel, names, _LEFT + number * (_WIDTH + _GAP), x_label)
    width, height = _LEFT + len(panels) * (_WIDTH + _GAP), _TOP + _HEIGHT + 60
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif">'
    return "\n".join([head, f'<rect width="{width}" height="{height}" fill="white"/>', *parts, "</svg>", ""])


def _panel(panel: Panel, names: list[str], left: int, x_label: str) -> list[str]:
    points = [point for line in panel.lines.values() for point in line]
    if not points:
        raise ValueError(f"nothing was measured for {panel.y_label!r}")
    xs = sorted({x for x, _ in points})
    low = math.floor(math.log10(min(y for _, y in points)))
    high = max(low + 1, math.ceil(math.log10(max(y for _, y in points))))

    def place(x: float, y: float) -> tuple[float, float]:
        across = math.log(x / xs[0]) / (math.log(xs[-1] / xs[0]) or 1.0)
        up = (math.log10(y) - low) / (high - low)
        return left + across * _WIDTH, _TOP + (1 - up) * _HEIGHT

    bottom = _TOP + _HEIGHT
    parts = [f'<path d="M{left} {_TOP}V{bottom}h{_WIDTH}" fill="none" stroke="black"/>']
    parts += [_text(place(x, 10**low)[0], bottom + 18, f"{x:g}", anchor="middle") for x in xs]
    for power in range(low, high + 1):
        y = place(xs[0], 10.0**power)[1]
        parts.append(f'<path d="M{left} {y:.1f}h{_WIDTH}" stroke="#ddd"/>')
        parts.append(_text(left - 8, y + 4, f"{10.0**power:,g}", anchor="end"))
    parts.append(_text(left + _WIDTH / 2, bottom + 40, x_label, anchor="middle"))
    parts.append(_text(left + 8, _TOP + 14, panel.y_label))
    for name, line in panel.lines.items():
        path = " ".join("{:.1f},{:.1f}".format(*place(*point)) for point in line)
        style = f'fill="none" stroke="{_colour(names.index(name))}" stroke-width="2.5"'
        parts.append(f'<polyline points="{path}" {style}/>')
    return parts


def _text(x: float, y: float, text: str, size: int = 12, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}">{escape(text)}</text>'


def _colour(number: int) -> str:
    return _COLOURS[number % len(_COLOURS)]
