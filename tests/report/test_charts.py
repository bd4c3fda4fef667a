"""Charts put points where the axes say, and drop nothing but what is no number."""

from __future__ import annotations

import math
import re
from xml.etree import ElementTree

import numpy as np
import pytest

from stego_dist.report.charts import BOTTOM, LEFT, RIGHT, TOP, Chart, Series, draw, ticks


def parse(chart: Chart) -> ElementTree.Element:
    return ElementTree.fromstring(str(draw(chart)))


def points(figure: ElementTree.Element, kind: str = "polyline") -> list[np.ndarray]:
    svg = figure.find("svg")
    return [np.array([[float(v) for v in p.split(",")] for p in e.get("points").split()]) for e in svg.iter(kind)]


def test_points_lie_on_the_axes():
    x, y = [10, 20, 40], [0.5, -1.0, 1.0]
    figure = parse(Chart("t", "x", "y", [Series("s", x, y)], width=474, height=254))
    (line,) = points(figure)
    wide, high = 474 - LEFT - RIGHT, 254 - TOP - BOTTOM
    np.testing.assert_allclose(line[:, 0], [LEFT, LEFT + wide / 3, LEFT + wide], atol=0.06)
    np.testing.assert_allclose(line[:, 1], [TOP + high / 4, TOP + high, TOP], atol=0.06)


def test_ticks_of_the_axis_agree_with_the_points():
    """The label of a tick is the value that a point at its place has."""
    values = [3.0, 7.0, 5.0]
    figure = parse(Chart("t", "x", "y", [Series("s", [0, 1, 2], values)]))
    (line,) = points(figure)
    scale = np.polyfit(line[:, 1], values, 1)
    labels = [t for t in figure.find("svg").iter("text") if t.get("text-anchor") == "end"]
    assert len(labels) >= 3
    for label in labels:
        assert float(label.text) == pytest.approx(np.polyval(scale, float(label.get("y")) - 4), abs=0.02)


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-0.06, 0.01), (3, 3000), (0.0049, 0.0096), (-5, 5)])
def test_ticks_are_round_and_inside(low, high):
    found = ticks(low, high)
    assert 2 <= len(found) <= 7 and low - 1e-9 <= found[0] and found[-1] <= high + 1e-9
    step = found[1] - found[0]
    np.testing.assert_allclose(np.diff(found), step)
    assert round(step / 10 ** math.floor(math.log10(step) + 1e-9), 6) in (1, 2, 5)


@pytest.mark.parametrize("y", [[0.3], [0.3, 0.3], [math.nan, 0.3, math.inf], []])
def test_short_flat_and_broken_lines(y):
    figure = parse(Chart("t", "x", "y", [Series("s", range(len(y)), y)]))
    kept = [v for v in y if math.isfinite(v)]
    assert [len(line) for line in points(figure)] == ([len(kept)] if kept else [])
    assert not re.search("nan|inf", str(draw(Chart("t", "x", "y", [Series("s", range(len(y)), y)]))))


def test_marks_keys_and_words():
    chart = Chart(
        'a "b" <c>', "x", "y", [Series("<one>", [0, 1], [0, 1]), Series("two", [0, 1], [1, 0])], "Said & done.",
        marks=[(0.25, "shift 0.25")], filled=True,
    )  # fmt: skip
    figure = parse(chart)
    svg = figure.find("svg")
    assert svg.get("role") == "img" and svg.get("aria-label") == 'a "b" <c>. Said & done.'
    assert [item.find("svg").tail for item in figure.iter("li")] == ["<one>", "two"]
    (mark,) = (line for line in svg.iter("line") if line.get("class") == "mark")
    assert float(mark.get("x1")) == pytest.approx(LEFT + (560 - LEFT - RIGHT) / 4, abs=0.06)
    assert len(points(figure, "polygon")) == 2
