"""Line and area charts as HTML with inline SVG: they stretch to any width while their words keep their size.

The SVG holds the shapes only, in a box of 1000 × 1000 that is stretched; axis labels are HTML beside it. Hovering a
point shows its values (SVG titles), so nothing needs a script. It escapes what it is given.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape
from typing import NamedTuple

__all__ = ["Line", "chart", "number", "ticks"]


class Line(NamedTuple):
    """One series. `colour` is a CSS class; `filled` paints the area below it."""

    name: str
    colour: str
    points: Sequence[tuple[float, float]]
    filled: bool = False


def number(value: float) -> str:
    """Short, for people: 1.25 M · 12,300 · 84.5 · 0.25."""
    if value == 0:
        return "0"
    if value >= 1_000_000:
        return f"{value / 1e6:.3g} M"
    if abs(value) >= 99.95:
        return f"{value:,.0f}"
    return f"{value:.4g}" if value > 99 else f"{value:.3g}"


def ticks(top: float, count: int = 4) -> list[float]:
    """Round values from 0 to at least `top`."""
    if top < 1e-300:  # nothing, or too little to be divided
        return [0.0, 1.0]
    raw = top / count
    unit = 10 ** math.floor(math.log10(raw))
    step = next(factor * unit for factor in (1, 2, 2.5, 5, 10) if factor * unit >= raw * 0.999)
    return [n * step for n in range(math.ceil(top / step - 1e-9) + 1)]


def _powers(low: float, top: float) -> list[float]:
    """Powers of ten around [low, top]."""
    first, last = math.floor(math.log10(max(low, 1e-2))), math.ceil(math.log10(max(top, 1e-1)))
    return [10.0**n for n in range(first, max(last, first + 1) + 1)]


def chart(
    title: str,
    note: str,
    lines: Sequence[Line],
    *,
    unit: str,
    x_label: Callable[[float], str],
    x_ticks: Sequence[float] | None = None,
    log: bool = False,
) -> str:
    """One figure. `x_ticks` default to round numbers over the range of the points."""
    points = [point for line in lines for point in line.points]
    if len(points) < 2:
        return f"<figure><figcaption><b>{escape(title)}</b> too short to draw</figcaption></figure>"
    left, right = min(0.0, *(x for x, _ in points)), max(x for x, _ in points)
    highest = max(y for _, y in points)
    marks = _powers(min((y for _, y in points if y > 0), default=1.0), highest) if log else ticks(highest)
    low, top = marks[0], marks[-1]

    def place_x(x: float) -> float:
        return (x - left) / max(right - left, 1e-9) * 1000

    def place_y(y: float) -> float:
        if log:
            share = (math.log10(max(y, low)) - math.log10(low)) / (math.log10(top) - math.log10(low))
        else:
            share = (y - low) / (top - low)
        return 1000 - share * 1000

    shapes = [f'<path class="grid" d="M0 {place_y(mark):.1f}H1000"/>' for mark in marks]
    for line in lines:
        path = " ".join(f"{place_x(x):.1f} {place_y(y):.1f}" for x, y in line.points)
        if line.filled:
            ends = (place_x(line.points[0][0]), place_x(line.points[-1][0]))
            shapes.append(f'<path class="area {line.colour}" d="M{ends[0]:.1f} 1000L{path}L{ends[1]:.1f} 1000Z"/>')
        shapes.append(f'<path class="line {line.colour}" d="M{path}"/>')
    shapes.extend(_hints(lines, unit, x_label, place_x))
    labels = "".join(f'<span style="top:{place_y(mark) / 10:.2f}%">{escape(number(mark))}</span>' for mark in marks)
    if x_ticks is None:
        x_ticks = [left + mark for mark in ticks(right - left) if left + mark <= right]
    below = "".join(
        f'<span style="left:{place_x(x) / 10:.2f}%">{escape(x_label(x))}</span>' for x in x_ticks if left <= x <= right
    )
    legend = (
        "".join(f'<i class="{line.colour}">{escape(line.name)}</i>' for line in reversed(lines))
        if len(lines) > 1
        else ""
    )
    return (
        f"<figure><figcaption><b>{escape(title)}</b> <small>{escape(unit)}</small>{legend}<p>{escape(note)}</p></figcaption>"
        f'<div class="plot"><div class="y">{labels}</div>'
        f'<svg viewBox="0 0 1000 1000" preserveAspectRatio="none" role="img" aria-label="{escape(title)}">{"".join(shapes)}</svg>'
        f'<div class="x">{below}</div></div></figure>'
    )


def _hints(
    lines: Sequence[Line], unit: str, x_label: Callable[[float], str], place_x: Callable[[float], float]
) -> list[str]:
    """Invisible bars, one a point of the first line, that say all values there."""
    values: dict[float, list[str]] = {}
    for line in lines:
        for x, y in line.points:
            values.setdefault(x, []).append(f"{line.name} {number(y)} {unit}")
    xs = sorted(values)
    bars = []
    for place, x in enumerate(xs):
        begin = place_x(xs[place - 1] if place else x) / 2 + place_x(x) / 2
        end = place_x(xs[place + 1] if place + 1 < len(xs) else x) / 2 + place_x(x) / 2
        words = escape("\n".join([x_label(x), *values[x]]))
        bars.append(
            f'<rect class="hint" x="{begin:.1f}" y="0" width="{max(end - begin, 1):.1f}" height="1000"><title>{words}</title></rect>'
        )
    return bars
