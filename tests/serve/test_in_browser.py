"""The page in a real browser: drop an image, see clusters, name them, reload, download; by mouse and by keys."""

from __future__ import annotations

import time

import numpy as np
import pytest
from PIL import Image

from stego_dist.inference.model import Model
from tests.browser import browser, find_browser
from tests.serve.serving import encoded, picture

pytestmark = pytest.mark.skipif(find_browser() is None, reason="no Chromium here (apt-get install chromium)")

LEGEND = "[...document.querySelectorAll('#here .name')].map(e => e.textContent)"
IDLE = "document.querySelector('#work').getAttribute('aria-busy') === 'false'"
ERROR = "document.querySelector('#error').textContent"
CLOSED = "!document.querySelector('#editor').open"
PIXELS = """
(() => {
  const {width, height} = document.querySelector('#paint');
  const copy = new OffscreenCanvas(width, height).getContext('2d', {willReadFrequently: true});
  copy.drawImage(document.querySelector('#paint'), 0, 0);
  return [...copy.getImageData(0, 0, width, height).data];
})()"""
"""RGBA of what is painted over the image."""


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    with browser() as opened:
        opened.folder = tmp_path_factory.mktemp("downloads")
        opened.call("Emulation.setDeviceMetricsOverride", width=1280, height=900, deviceScaleFactor=1, mobile=False)
        yield opened


@pytest.fixture
def page(chromium, site):
    """The page before any image; afterwards it complained of nothing and asked nobody else."""
    chromium.open(site.url)
    chromium.wait("document.querySelectorAll('.entry').length === 5")
    yield chromium
    assert all(url.startswith((site.url, "blob:" + site.url)) for url in chromium.requests())


def seen_of(site, image):
    """What the model sees, under the names of now."""
    return Model.load(site.run.root)(image)


def dropped(page, image, name="street.png"):
    page.drop(name, encoded(image))
    page.wait(f"{IDLE} && document.querySelectorAll('#here .bar').length")


def painted(page, height=44, width=60):
    return np.array(page.run(PIXELS), np.uint8).reshape(height, width, 4)


def place_of(page, found, cluster):
    """A pixel of a cluster, as a place of the viewport."""
    box = page.run("document.querySelector('#paint').getBoundingClientRect().toJSON()")
    rows, columns = np.nonzero(found.clusters == cluster)
    inner, scale = len(rows) // 2, box["width"] / found.clusters.shape[1]
    return box["x"] + (columns[inner] + 0.5) * scale, box["y"] + (rows[inner] + 0.5) * scale


def type_name(page, name):
    """Over what is selected."""
    page.call("Input.insertText", text=name)


def test_drop_look_name_reload_download(page, site):
    image = picture()
    found = seen_of(site, image)
    dropped(page, image)
    shares = found.shares()
    assert page.run(LEGEND) == sorted(shares, key=lambda name: -shares[name])
    np.testing.assert_array_equal(painted(page)[..., :3], found.colours())
    assert "street.png, 60×44 pixels" in page.run("document.querySelector('#status').textContent")

    cluster = int(found.clusters[22, 30])
    x, y = place_of(page, found, cluster)
    page.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
    assert f"cluster {cluster}" in page.wait("document.querySelector('#tip:not([hidden])')?.textContent")
    assert page.run("document.querySelector('.entry.on .name').textContent") == f"cluster {cluster}"
    page.click(x, y)
    assert page.wait("document.querySelector('#editor[open] h2')?.textContent") == f"Name cluster {cluster}"
    type_name(page, "<b>road</b><img src=x onerror=alert(1)>")
    page.run("const colour = document.querySelector('[name=colour]'); colour.value = '#12ab34'")
    page.run("colour.dispatchEvent(new Event('input', {bubbles: true}))")
    lit = painted(page)  # it is seen before it is saved
    assert (lit[found.clusters == cluster] == [0x12, 0xAB, 0x34, 255]).all() and not site.run.names.exists()
    assert (lit[found.clusters != cluster][:, 3] < 128).all()
    page.press("Enter", 13, "\r")
    page.wait(CLOSED)
    assert page.run(LEGEND)[0].startswith("<b>") or "<b>road</b><img src=x onerror=alert(1)>" in page.run(LEGEND)
    assert page.run("document.querySelectorAll('b, #legend img').length") == 0

    page.reload()
    page.wait(f"{LEGEND}.includes('<b>road</b><img src=x onerror=alert(1)>')")
    named = seen_of(site, image)
    np.testing.assert_array_equal(painted(page)[..., :3], named.colours())
    assert ((named.colours() == [0x12, 0xAB, 0x34]).all(-1) == (found.clusters == cluster)).all()

    page.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(page.folder))
    for button, file in (("labels", "street_classes.png"), ("overlay", "street_overlay.png")):
        page.run(f"document.querySelector('[data-file={button}]').click()")
        until = time.monotonic() + 20
        while not (page.folder / file).exists():
            assert time.monotonic() < until, list(page.folder.iterdir())
            time.sleep(0.02)
    with Image.open(page.folder / "street_classes.png") as classes:
        np.testing.assert_array_equal(np.array(classes), named.labels)
        np.testing.assert_array_equal(np.array(classes.convert("RGB")), named.colours())
    with Image.open(page.folder / "street_overlay.png") as overlay:
        np.testing.assert_array_equal(np.array(overlay), np.array(named.overlay(0.55)))
    assert page.complaints() == []


def test_one_name_joins_and_parts_again(page, site):
    image = picture()
    found = seen_of(site, image)
    dropped(page, image)
    first, second = np.argsort(-np.bincount(found.clusters.ravel()))[:2]
    page.click(*place_of(page, found, second))
    page.wait("document.querySelector('#editor').open")
    type_name(page, f"cluster {first}")
    hint = page.run("document.querySelector('#editor [role=status]').textContent")
    assert hint == f"Becomes one class with cluster {first}."
    page.run("document.querySelector('#editor [value=save]').click()")
    page.wait(CLOSED)
    assert len(page.run(LEGEND)) == len(found.shares()) - 1
    both = painted(page)[np.isin(found.clusters, (first, second))]
    assert len(np.unique(both, axis=0)) == 1

    entry = page.run("document.querySelector('#here .entry').getBoundingClientRect().toJSON()")
    page.click(entry["x"] + 20, entry["y"] + 10)  # of the legend: all of it
    page.wait("document.querySelector('#editor').open")
    page.call("Input.dispatchMouseEvent", type="mouseMoved", x=5, y=5)
    lit = painted(page)[..., 3] == 255
    np.testing.assert_array_equal(lit, np.isin(found.clusters, (first, second)))
    scopes = page.run("[...document.querySelectorAll('.scope label')].map(e => e.textContent.trim())")
    low, high = sorted((int(first), int(second)))
    assert scopes == [f"all of cluster {first}", f"cluster {low} alone", f"cluster {high} alone"]
    page.run(f"document.querySelector('.scope [value=\"{second}\"]').click()")
    page.run("document.querySelector('[name=name]').select()")
    page.run("document.querySelector('[name=name]').focus()")
    type_name(page, "hedge")
    assert "colour of its own" in page.run("document.querySelector('#editor [role=status]').textContent")
    page.press("Enter", 13, "\r")
    page.wait(CLOSED)
    assert "hedge" in page.run(LEGEND) and len(page.run(LEGEND)) == len(found.shares())
    assert len(np.unique(painted(page)[np.isin(found.clusters, (first, second))], axis=0)) == 2
    assert page.run("document.activeElement.querySelector('.name').textContent") == "hedge"

    before = painted(page)
    page.press("Enter", 13, "\r")  # the focus is on it
    page.wait("document.querySelector('#editor').open")
    type_name(page, "something else")
    page.press("Escape", 27)
    page.wait(CLOSED)
    assert "hedge" in page.run(LEGEND)
    page.run("document.activeElement.blur()")
    np.testing.assert_array_equal(painted(page), before)
    assert page.complaints() == []


def test_views_opacity_and_back(page):
    dropped(page, picture())
    opacity = "getComputedStyle(document.querySelector('#paint')).opacity"
    page.wait(f"{opacity} === '0.55'")
    page.press("2", 50, "2")
    page.wait(f"{opacity} === '0'")
    page.press("3", 51, "3")
    page.wait(f"{opacity} === '1'")
    page.press("1", 49, "1")
    page.run("document.querySelector('[name=mix]').focus()")
    page.press("Home", 36)
    page.wait(f"{opacity} === '0'")
    assert page.run("document.querySelector('output').textContent") == "0 %"

    dropped(page, picture(80, 40, seed=5), "second.png")
    page.wait("document.querySelector('#recent [title=\"second.png\"]') !== null")
    shown = "document.querySelector('#picture').alt"
    assert page.run(shown) == "second.png" and page.run("document.querySelector('#paint').width") == 80
    page.run("history.back()")
    page.wait(f"{shown} === 'street.png'")
    page.run("document.querySelector('#recent [title=\"second.png\"]').click()")
    page.wait(f"{shown} === 'second.png'")
    assert page.complaints() == []


def test_errors_are_sentences_and_the_page_goes_on(page, site):
    page.drop("notes.txt", b"no image")
    assert page.wait(ERROR) == "notes.txt is no image that can be read; send JPEG, PNG, WEBP, TIFF, BMP or GIF."
    page.drop("large.png", bytes(300_001))
    page.wait(f"{ERROR}.includes('larger than the limit of 0.3 MB')")
    dropped(page, picture())
    assert page.run(ERROR) == ""
    page.drop("notes.txt", b"no image")
    page.wait(f"{ERROR}.includes('notes.txt') && {IDLE}")
    assert page.run("document.querySelector('#status').textContent") == "street.png, 60×44 pixels"  # it still is shown
    site.edit([0], "written elsewhere")
    page.run("document.querySelector('#here .entry').click()")
    page.wait("document.querySelector('#editor').open")
    type_name(page, "written here")
    page.press("Enter", 13, "\r")
    page.wait(f"{ERROR}.includes('changed elsewhere')")
    assert page.run(CLOSED) and "written elsewhere" in page.run(
        LEGEND + ".concat([...document.querySelectorAll('#others .name')].map(e => e.textContent))"
    )
    site.run.names.write_text("clusters: [", "utf-8")
    page.run("document.querySelector('#here .entry').click()")
    page.wait("document.querySelector('#editor').open")
    page.press("Enter", 13, "\r")
    assert "can't be read" in page.wait("document.querySelector('#editor [role=alert]').textContent")
    site.run.names.unlink()
    page.run("dispatchEvent(new Event('focus'))")  # shut first: names do not change under an editor
    assert page.run("document.querySelector('#editor').open")


def test_every_control_is_named_and_words_can_be_read(page):
    for scheme in ("light", "dark"):
        page.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        assert page.least_contrast() >= 4.5, scheme
    dropped(page, picture())
    page.run("document.querySelector('#here .entry').click()")
    page.wait("document.querySelector('#editor').open")
    for scheme in ("light", "dark"):
        page.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        assert page.least_contrast() >= 4.5, scheme
    page.call("Emulation.setEmulatedMedia", features=[])
    page.press("Escape", 27)
    page.wait(CLOSED)
    seen = []
    page.run("document.activeElement.blur()")
    for _ in range(30):
        page.press("Tab", 9)
        seen.append(page.run("[document.activeElement.tagName, document.activeElement.id]"))
    assert {"BUTTON", "INPUT"} <= {tag for tag, _ in seen} and ["INPUT", "file"] in seen
    named = """
    [...document.querySelectorAll('button, input, section, nav, [role=img], dialog')].filter(e => e.checkVisibility())
      .every(e => e.textContent.trim() || e.ariaLabel || e.labels?.length || e.querySelector('img[alt]'))"""
    assert page.run(named)
    assert page.run("document.documentElement.scrollWidth <= innerWidth")
    assert page.complaints() == []
