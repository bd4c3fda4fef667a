"""Parallel coordinates as inline SVG: a line a trial, an axis a sampled key, then the scores.

Lines are told apart by what became of the trial: full, dashed (collapsed), dotted (stopped early, or failed, which ends
before the scores). The page's script highlights the line next to the pointer; without it the drawing says the same.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from stego_dist.report.charts import ticks

STEP, HEIGHT, TOP, BOTTOM, SIDE = 128, 300, 46, 24, 60


@dataclass(frozen=True)
class Axis:
    """Values from low (bottom) to high, or one after the other."""

    title: str
    low: float = 0.0
    high: float = 1.0
    log: bool = False
    values: Sequence[Any] | None = None

    def place(self, value: Any) -> float | None:
        """0 (bottom) to 1, None for no value."""
        if value is None:
            return None
        if self.values is not None:
            return list(self.values).index(value) / max(1, len(self.values) - 1)
        low, high, at = self.low, self.high, float(value)
        if self.log:
            low, high, at = math.log(low), math.log(high), math.log(at)
        return (at - low) / (high - low) if high > low else 0.5

    def labels(self) -> list[tuple[float, str]]:
        """Where what is written."""
        if self.values is not None:
            return [(self.place(value) or 0.0, str(value)) for value in self.values]
        shown = ticks(self.low, self.high, 4) if self.high > self.low else []
        if self.log:
            powers = range(math.ceil(math.log10(self.low)), math.floor(math.log10(self.high)) + 1)
            shown = [10.0**power for power in powers]
        if self.log or len(shown) < 2:
            shown = sorted({self.low, self.high, *shown})
        return [(self.place(value) or 0.0, f"{value:.4g}") for value in shown]


@dataclass(frozen=True)
class Line:
    """A trial."""

    number: int
    state: str
    """Classes of the style sheet: done, stopped, failed; collapsed, best."""
    values: Sequence[Any]
    """One an axis; None: none."""
    worth: float
    """Its objective, 0 (worst) to 1, for the colour."""
    title: str


def key_axis(entry: Mapping[str, Any]) -> Axis:
    """The axis of a key of the space."""
    title = ".".join(entry["key"].split(".")[-2:])
    if "values" in entry:
        return Axis(title, values=entry["values"])
    return Axis(title, entry["low"], entry["high"], bool(entry.get("log")))


def score_axis(title: str, values: Sequence[float | None]) -> Axis:
    """The axis of a score, as far as values reach."""
    known = [value for value in values if value is not None] or [0.0]
    return Axis(title, min(known), max(known))


def draw_parallel(axes: Sequence[Axis], lines: Sequence[Line], note: str) -> Markup:
    """The drawing; later lines lie above earlier ones."""
    width = 2 * SIDE + STEP * (len(axes) - 1)
    parts = [Markup("")]
    for number, axis in enumerate(axes):
        x = SIDE + STEP * number
        parts.append(Markup('<line class="axis" x1="{0}" x2="{0}" y1="{1}" y2="{2}"/>').format(x, *_y(1), *_y(0)))
        title = '<text class="mark" x="{}" y="{}" text-anchor="middle">{}</text>'
        parts.append(Markup(title).format(x, 14 + 16 * (number % 2), axis.title))
        for at, text in axis.labels():
            label = Markup('<text x="{}" y="{:.1f}" text-anchor="end">{}</text>')
            parts.append(label.format(x - 5, _y(at)[0] + 4, text))
    for line in lines:
        places = [axis.place(value) for axis, value in zip(axes, line.values)]
        known = [(SIDE + STEP * n, *_y(at)) for n, at in enumerate(places) if at is not None]
        points = " ".join(f"{x},{y:.1f}" for x, y in known)
        drawn = '<polyline class="trial {}" data-trial="{}" style="--v:{:.3f}" points="{}"><title>{}</title></polyline>'
        parts.append(Markup(drawn).format(line.state, line.number, line.worth, points, line.title))
    svg = (
        '<svg class="parallel" viewBox="0 0 {w} {h}" width="{w}" height="{h}" role="img" tabindex="0" '
        'aria-label="{label}">{parts}</svg>'
    )
    return Markup(svg).format(w=width, h=HEIGHT, label=note, parts=Markup("").join(parts))


def _y(at: float) -> tuple[float]:
    return (TOP + (HEIGHT - TOP - BOTTOM) * (1 - at),)
