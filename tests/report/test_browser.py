"""The report in a real browser: it asks for nothing, complains of nothing, shows every picture; its switches work."""

from __future__ import annotations

import base64
import re

import numpy as np
import pytest
from PIL import Image

from stego_dist.report.page import write_page
from stego_dist.rundir import write_json
from tests.browser import browser, find_browser
from tests.report.made import labelled_results

pytestmark = pytest.mark.skipif(find_browser() is None, reason="no Chromium here (apt-get install chromium)")

SHOWN = "[...document.querySelector('#images .panel').querySelectorAll('.layer')].filter(e => e.checkVisibility())"
"""What is to be seen of the first panel."""


@pytest.fixture(scope="module")
def chromium():
    with browser() as opened:
        yield opened


@pytest.mark.parametrize("which", ["evaluated", "evaluated_unlabelled"])
def test_nothing_is_asked_for_and_every_picture_loads(chromium, which, request, tmp_path):
    path = request.getfixturevalue(which).root / "report.html"
    chromium.open(path)
    assert chromium.requests() == [path.as_uri()] and chromium.complaints() == []
    loaded = chromium.run("[...document.images].map(i => i.complete && i.naturalWidth > 0 && i.alt !== '')")
    assert len(loaded) > 10 and all(loaded)
    wide = chromium.run("document.documentElement.scrollWidth <= innerWidth")
    assert wide, "the page scrolls sideways"
    ids = chromium.run("[...document.querySelectorAll('[id]')].map(e => e.id)")
    assert len(ids) == len(set(ids))


def test_hostile_names_do_nothing(chromium, run):
    write_json(run.results, labelled_results(run="<script>document.title = 'hit'</script><img src=x onerror=alert(1)>"))
    chromium.open(write_page(run))
    assert chromium.run("document.title").endswith("segmentation report") and chromium.complaints() == []
    assert chromium.run("document.images.length") == 0 and len(chromium.requests()) == 1


def test_layers_switch_by_mouse_and_by_keys(chromium, evaluated):
    chromium.open(evaluated.root / "report.html")
    layers = ["image", "label", "kmeans", "learned", "linear"]
    first = f"{SHOWN}.map(e => e.dataset.key)"
    assert chromium.run(first) == layers  # side by side
    chromium.run("document.querySelector('input[value=learned]').click()")
    assert chromium.run(first) == ["image", "learned"]
    assert "learned cluster probe" in chromium.run("document.querySelector('[role=status]').textContent")
    place = f"JSON.stringify({SHOWN}.map(e => e.firstChild.getBoundingClientRect()))"
    rectangles = re.findall(r'"x":([\d.]+),"y":([\d.-]+)', chromium.run(place))
    assert len(rectangles) == 2 and rectangles[0] == rectangles[1]  # one over the other
    opacity = "getComputedStyle(document.querySelector('#images .layer.on img')).opacity"
    assert chromium.run(opacity) == "0.65"
    chromium.run("document.querySelector('[name=mix]').focus()")
    chromium.press("End", 35)
    assert chromium.run(opacity) == "1" and chromium.run("document.querySelector('output').textContent") == "100 %"
    chromium.run("document.querySelector('input[value=learned]').focus()")
    chromium.press("ArrowRight", 39)
    assert chromium.run(first) == ["image", "linear"]
    chromium.press("2", 50, "2")
    assert chromium.run(first) == ["image", "label"]
    assert chromium.run("document.activeElement.value") == "label"
    chromium.press("1", 49, "1")
    assert chromium.run(first) == ["image"] and chromium.run("document.querySelector('[name=mix]').disabled")
    chromium.press("0", 48, "0")
    assert chromium.run(first) == layers and chromium.complaints() == []


def test_every_control_can_be_reached_and_shows_its_focus(chromium, evaluated):
    chromium.open(evaluated.root / "report.html")
    seen = []
    for _ in range(60):
        chromium.press("Tab", 9)
        seen.append(
            chromium.run("[document.activeElement.tagName, getComputedStyle(document.activeElement).outlineStyle]")
        )
        if seen[-1][0] == "BODY":
            break
    tags = {tag for tag, _ in seen}
    assert {"BUTTON", "A", "INPUT", "SUMMARY"} <= tags
    assert all(outline == "solid" for tag, outline in seen if tag != "BODY")
    named = """
    [...document.querySelectorAll('button, input, section, [role=region], [role=img]')].every(
      e => e.textContent.trim() || e.ariaLabel || e.labels?.length || e.getAttribute('aria-labelledby'))"""
    assert chromium.run(named)


def mean_of(path) -> float:
    with Image.open(path) as image:
        return float(np.asarray(image.convert("L"))[:400].mean())


def test_light_dark_and_print(chromium, evaluated, tmp_path):
    chromium.open(evaluated.root / "report.html")
    for name, options in {"light": {}, "dark": {"dark": True}, "print": {"dark": True, "media": "print"}}.items():
        chromium.screenshot(tmp_path / f"{name}.png", **options)
    light, dark, printed = (mean_of(tmp_path / f"{name}.png") for name in ("light", "dark", "print"))
    assert light > 220 and dark < 70 and printed > 220  # paper is white, whatever the screen was
    chromium.screenshot(tmp_path / "dark.png", dark=True)
    chromium.run("document.getElementById('theme').click()")
    chromium.screenshot(tmp_path / "switched.png", dark=True)
    assert mean_of(tmp_path / "switched.png") > 220
    assert chromium.run("document.getElementById('theme').textContent") == "Dark"
    shown = "[...document.querySelectorAll('details')].map(e => e.open)"
    before = chromium.run(shown)
    chromium.run("dispatchEvent(new Event('beforeprint'))")
    assert all(chromium.run(shown)) and not all(before)
    chromium.run("dispatchEvent(new Event('afterprint'))")
    assert chromium.run(shown) == before
    chromium.run("document.querySelector('input[value=kmeans]').click()")
    pdf = base64.b64decode(chromium.call("Page.printToPDF")["data"])
    assert pdf.startswith(b"%PDF") and len(re.findall(rb"/Type\s*/Page\b", pdf)) >= 2


def test_words_can_be_read(chromium, evaluated):
    """Contrast of text on its ground is at least 4.5 in both schemes (WCAG AA)."""
    chromium.open(evaluated.root / "report.html")
    for scheme in ("light", "dark"):
        chromium.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        assert chromium.least_contrast() >= 4.5, scheme
