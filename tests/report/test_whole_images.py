"""The report of whole images after the CRF: pictures at their own aspect ratio, refined maps among the layers."""

from __future__ import annotations

import json
import shutil

import jsonschema
import numpy as np
import pytest
from PIL import Image

from stego_dist.cli import main
from stego_dist.report.pictures import layers_of
from stego_dist.rundir import RunDir
from tests.browser import browser, find_browser
from tests.report.test_browser import SHOWN
from tests.report.test_page import Page

LAYERS = ["image", "label", "kmeans", "kmeans+crf", "learned", "linear", "linear+crf"]
SIZE = (43, 37)
"""Of the tiny pictures (52×44) with a shorter side of 37, which is no multiple of the patches' 8."""


@pytest.fixture(scope="module")
def whole(evaluated, tmp_path_factory) -> RunDir:
    """The labelled run, evaluated so."""
    run = RunDir(shutil.copytree(evaluated.root, tmp_path_factory.mktemp("whole") / "run"))
    overrides = ["eval.crop=none", "eval.resolution=37", "eval.crf=both", "eval.panels=5", "eval.crf_workers=1"]
    assert main(["eval", str(run.root), *overrides]) == 0
    return run


def test_every_layer_has_the_aspect_ratio_of_its_image(whole):
    listed = json.loads((layers_of(whole) / "pictures.json").read_text())
    assert {panel["rank"] for panel in listed["panels"]} == {"best", "median", "worst", "spread"}
    for panel in listed["panels"]:
        assert [layer["key"] for layer in panel["layers"]] == LAYERS
        for layer in panel["layers"]:
            assert Image.open(layers_of(whole) / layer["file"]).size == SIZE
    page = Page((whole.root / "report.html").read_text("utf-8"))
    shown = list(zip(page.values("width", "img"), page.values("height", "img"), strict=True))
    assert shown.count(("43", "37")) == len(LAYERS) * len(listed["panels"])
    assert [value for value in page.values("value", "input") if value in LAYERS] == LAYERS


def test_an_image_has_the_same_maps_wherever_it_is_shown(whole):
    """Best, median and worst images are predicted and refined once more."""
    listed = json.loads((layers_of(whole) / "pictures.json").read_text())
    ranked = {panel["name"]: panel for panel in listed["panels"] if panel["rank"] != "spread"}
    compared = 0
    for panel in listed["panels"]:
        if panel["rank"] == "spread" and panel["name"] in ranked:
            for one, other in zip(panel["layers"], ranked[panel["name"]]["layers"], strict=True):
                pixels = [np.asarray(Image.open(layers_of(whole) / layer["file"])) for layer in (one, other)]
                assert (pixels[0] == pixels[1]).mean() > 0.999
                compared += 1
    assert compared == len(LAYERS) * len(ranked) and ranked


def test_results_and_summary_go_with_the_pictures(whole, schema):
    results = json.loads(whole.results.read_text())
    jsonschema.validate(results, schema)
    assert [*results["measures"]] == LAYERS[2:] and results["crop"] == "none"
    assert results["correspondences"]["labels"]["images"] == 4
    words = Page((whole.root / "report.html").read_text("utf-8")).words
    for name in ("linear", "linear+crf", "kmeans+crf"):
        measure = results["measures"][name]
        assert f"{100 * measure['accuracy']:.1f} / {100 * measure['miou']:.1f}" in words
    assert "linear probe (labels), CRF: accuracy / mIoU" in words and "before the CRF" in words


@pytest.mark.skipif(find_browser() is None, reason="no Chromium here (apt-get install chromium)")
def test_refined_layers_switch_as_the_others_do(whole):
    with browser() as chromium:
        chromium.open(whole.root / "report.html")
        assert chromium.run(f"{SHOWN}.map(e => e.dataset.key)") == LAYERS
        chromium.run("document.querySelector('input[value=\"linear+crf\"]').click()")
        assert chromium.run(f"{SHOWN}.map(e => e.dataset.key)") == ["image", "linear+crf"]
        box = f"JSON.stringify({SHOWN}.map(e => e.firstChild.getBoundingClientRect()))"
        first, second = json.loads(chromium.run(box))
        assert first == second and first["width"] / first["height"] == pytest.approx(43 / 37, rel=0.01)
        assert chromium.complaints() == []
