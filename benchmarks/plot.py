"""Line plots as SVG text, both axes logarithmic; just enough for the scaling curves."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Final
from xml.sax.saxutils import escape

Points = Sequence[tuple[float, float]]

_WIDTH, _HEIGHT = 560, 320
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 16, 36, 48
_COLOURS: Final = ("#1f5fa8", "#c2571a", "#3a7d44", "#7a3b8f")
_MARKS: Final = (1, 2, 5)


def line_plot(title: str, x_label: str, y_label: str, series: Mapping[str, Points]) -> str:
    """The plot; every x and y must be above zero, and there must be at least one point."""
    xs = _Axis([x for points in series.values() for x, _ in points], _LEFT, _WIDTH - _RIGHT)
    ys = _Axis([y for points in series.values() for _, y in points], _HEIGHT - _BOTTOM, _TOP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img"'
        f' font-family="sans-serif" font-size="11">',
        f"<title>{escape(title)}</title>",
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#ffffff"/>',
        _text(_WIDTH / 2, 18, title, "middle", 'font-size="13" font-weight="bold"'),
        _text((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 10, x_label, "middle"),
        _text(
            14,
            (_TOP + _HEIGHT - _BOTTOM) / 2,
            y_label,
            "middle",
            f'transform="rotate(-90 14 {(_TOP + _HEIGHT - _BOTTOM) / 2:.0f})"',
        ),
    ]
    for tick in xs.ticks():
        x = xs.place(tick)
        parts.append(_line(x, _TOP, x, _HEIGHT - _BOTTOM, "#e4e4e4"))
        parts.append(_text(x, _HEIGHT - _BOTTOM + 16, f"{tick:,.10g}", "middle"))
    for tick in ys.ticks():
        y = ys.place(tick)
        parts.append(_line(_LEFT, y, _WIDTH - _RIGHT, y, "#e4e4e4"))
        parts.append(_text(_LEFT - 6, y + 4, f"{tick:,.10g}", "end"))
    for number, (name, points) in enumerate(series.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        placed = [(xs.place(x), ys.place(y)) for x, y in points]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in placed)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in placed]
        parts.append(_text(_LEFT + 10, _TOP + 14 + 15 * number, name, "start", f'fill="{colour}"'))
    return "\n".join([*parts, "</svg>\n"])


class _Axis:
    """A logarithmic axis between two places of the picture, a little wider than its values."""

    def __init__(self, values: Iterable[float], begin: float, end: float) -> None:
        logs = [math.log10(value) for value in values]
        room = max(0.05 * (max(logs) - min(logs)), 0.12)
        self._low, self._high = min(logs) - room, max(logs) + room
        self._begin, self._end = begin, end

    def place(self, value: float) -> float:
        share = (math.log10(value) - self._low) / (self._high - self._low)
        return self._begin + share * (self._end - self._begin)

    def ticks(self) -> list[float]:
        """1, 2, 5, 10 … within the axis; powers of ten alone where those would be many."""
        powers = range(math.floor(self._low), math.ceil(self._high) + 1)
        marks = _MARKS if self._high - self._low < 2.5 else (1,)
        found = [mark * 10.0**power for power in powers for mark in marks]
        return [tick for tick in found if self._low <= math.log10(tick) <= self._high]


def _line(x1: float, y1: float, x2: float, y2: float, colour: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}"/>'


def _text(x: float, y: float, text: str, anchor: str, more: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" {more}>{escape(text)}</text>'
