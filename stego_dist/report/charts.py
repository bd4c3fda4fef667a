"""Line charts and histograms as inline SVG: no library, colours by the page's style sheet, names escaped.

Lines differ in colour and in dashes, so that they can be told apart in print.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from markupsafe import Markup

LEFT, RIGHT, TOP, BOTTOM = 62, 12, 14, 40
Range = tuple[float, float]


@dataclass(frozen=True)
class Series:
    """A line."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    dots: bool = False
    """Points without a line between them."""


@dataclass(frozen=True)
class Chart:
    """Lines over common axes."""

    title: str
    x_label: str
    y_label: str
    series: Sequence[Series]
    note: str = ""
    """What the lines say, in words: read out instead of the drawing, and printed below it."""
    marks: Sequence[tuple[float, str]] = field(default_factory=tuple)
    """Vertical lines: where, and what is written at them."""
    x_range: Range | None = None
    y_range: Range | None = None
    filled: bool = False
    """Fill below the lines, as in a histogram."""
    width: int = 560
    height: int = 260


def ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten apart) from low to high, about `wanted` of them."""
    raw = (high - low) / wanted
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= raw * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(n * step, 12) for n in range(first, last + 1)]


def draw(chart: Chart) -> Markup:
    """The chart as a <figure>."""
    figure = Markup('<figure class="chart" style="width:{}px"><figcaption>{}</figcaption>{}{}{}</figure>')
    note = Markup('<p class="note">{}</p>').format(chart.note) if chart.note else ""
    keys = _keys(chart.series) if len(chart.series) > 1 else ""
    return figure.format(chart.width, chart.title, drawing(chart), keys, note)


def drawing(chart: Chart) -> Markup:
    """Its <svg> alone, without title, keys and note. Values that are not finite are left out."""
    x0, x1 = chart.x_range or _range([v for s in chart.series for v in s.x])
    y0, y1 = chart.y_range or _range([v for s in chart.series for v in s.y])
    inner = (chart.width - LEFT - RIGHT, chart.height - TOP - BOTTOM)

    def place(x: float, y: float) -> tuple[float, float]:
        return LEFT + inner[0] * (x - x0) / (x1 - x0), TOP + inner[1] * (1 - (y - y0) / (y1 - y0))

    floor = TOP + inner[1]
    parts = [_grid(chart, place, (x0, x1), (y0, y1))]
    for number, series in enumerate(chart.series):
        points = [place(x, y) for x, y in zip(series.x, series.y) if math.isfinite(x) and math.isfinite(y)]
        if not points:
            continue
        if chart.filled:
            area = [(points[0][0], floor), *points, (points[-1][0], floor)]
            parts.append(Markup('<polygon class="s{}" points="{}"/>').format(number, _text(area)))
        if len(points) == 1 or series.dots:
            dot = Markup('<circle class="s{}" cx="{:.1f}" cy="{:.1f}" r="3"/>')
            parts += [dot.format(number, *point) for point in points]
        if not series.dots:
            parts.append(Markup('<polyline class="s{}" points="{}"/>').format(number, _text(points)))
    for number, (x, text) in enumerate(chart.marks):
        at = place(min(max(x, x0), x1), y0)[0]
        anchor, shift = ("end", -4) if at > LEFT + inner[0] * 0.6 else ("start", 4)
        line = '<line class="mark" x1="{0:.1f}" x2="{0:.1f}" y1="{1}" y2="{2}"/>'
        parts.append(Markup(line).format(at, TOP, floor))
        label = '<text class="mark" x="{:.1f}" y="{}" text-anchor="{}">{}</text>'
        parts.append(Markup(label).format(at + shift, TOP + 10 + 13 * number, anchor, text))
    svg = Markup('<svg viewBox="0 0 {w} {h}" width="{w}" height="{h}" role="img" aria-label="{label}">{parts}</svg>')
    return svg.format(
        w=chart.width, h=chart.height, label=f"{chart.title}. {chart.note}".strip(), parts=Markup("").join(parts)
    )


def _keys(series: Sequence[Series]) -> Markup:
    line = '<svg width="30" height="10" aria-hidden="true"><polyline class="s{}" points="0,5 30,5"/></svg>'
    dot = '<svg width="30" height="10" aria-hidden="true"><circle class="s{}" cx="15" cy="5" r="3"/></svg>'
    items = [Markup(f"<li>{dot if s.dots else line}{{}}</li>").format(n, s.name) for n, s in enumerate(series)]
    return Markup('<ul class="keys">{}</ul>').format(Markup("").join(items))


def _grid(chart: Chart, place: object, x_range: Range, y_range: Range) -> Markup:
    assert callable(place)
    floor, right = chart.height - BOTTOM, chart.width - RIGHT
    parts = []
    for x in ticks(*x_range, wanted=max(2, chart.width // 90)):
        at = place(x, y_range[0])[0]
        parts.append(Markup('<text x="{:.1f}" y="{}" text-anchor="middle">{:g}</text>').format(at, floor + 15, x))
    for y in ticks(*y_range):
        at = place(x_range[0], y)[1]
        line = '<line class="grid" x1="{}" x2="{}" y1="{:.1f}" y2="{:.1f}"/>'
        parts.append(Markup(line).format(LEFT, right, at, at))
        parts.append(Markup('<text x="{}" y="{:.1f}" text-anchor="end">{:g}</text>').format(LEFT - 5, at + 4, y))
    middle = (LEFT + right) / 2
    parts.append(
        Markup('<text x="{:.1f}" y="{}" text-anchor="middle">{}</text>').format(middle, floor + 33, chart.x_label)
    )
    upright = '<text transform="translate(12 {:.1f}) rotate(-90)" text-anchor="middle">{}</text>'
    parts.append(Markup(upright).format((TOP + floor) / 2, chart.y_label))
    return Markup("").join(parts)


def _range(values: Sequence[float]) -> Range:
    """Lowest and highest finite value, a little apart where they are equal."""
    finite = [v for v in values if math.isfinite(v)] or [0.0]
    low, high = min(finite), max(finite)
    return (low, high) if high - low > 1e-9 * max(1.0, abs(low)) else (low - 0.5, high + 0.5)


def _text(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
