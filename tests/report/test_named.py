"""Names that people gave the clusters show in the report, without evaluating again."""

from __future__ import annotations

import base64
import io
import shutil

import numpy as np
import pytest
from PIL import Image

from stego_dist.errors import StaleInputError
from stego_dist.inference.model import OpenedRun
from stego_dist.inference.names import NamedClass, Names, write_names
from stego_dist.report.named import NONE, cluster_picture, in_colours_of, legend_with, sheet_titles
from stego_dist.report.page import write_page
from stego_dist.rundir import RunDir
from tests.report.test_page import write

TWO = Names((NamedClass("sky", (1, 2, 3)), NamedClass('<b onmouseover="x()">', (9, 8, 7))), (1, 0, 1))


def test_a_picture_takes_another_palette():
    ids = np.array([[0, 1], [2, -1]], np.int16)
    image = cluster_picture(ids, np.zeros((3, 3), np.uint8), 10)
    held = io.BytesIO()
    image.save(held, format="PNG", transparency=NONE)
    with Image.open(io.BytesIO(in_colours_of(held.getvalue(), TWO))) as named:
        pixels = np.array(named.convert("RGBA"))
    assert pixels[0, 0].tolist() == [9, 8, 7, 255] == pixels[1, 0].tolist()
    assert pixels[0, 1].tolist() == [1, 2, 3, 255] and pixels[1, 1, 3] == 0


def test_legend_and_titles():
    classes = [{"name": "sky", "colour": "#010203"}, {"name": "road", "colour": "#808080"}]
    assert [entry["name"] for entry in legend_with(classes, TWO, labelled=True)] == ["sky", "road", TWO.classes[1].name]
    assert [entry["name"] for entry in legend_with(classes, TWO, labelled=False)] == ["sky", TWO.classes[1].name]
    sheets = [{"cluster": 1, "colour": "#ffffff"}]
    assert sheet_titles(sheets, TWO) == [{"cluster": 1, "colour": "#010203", "title": "sky (cluster 1)"}]
    assert sheet_titles(sheets, None) == [{"cluster": 1, "colour": "#ffffff", "title": "Cluster 1"}]


@pytest.mark.parametrize("which", ["evaluated", "evaluated_unlabelled"])
def test_the_page_obeys_the_file_of_names(which, request, tmp_path):
    run = RunDir(shutil.copytree(request.getfixturevalue(which).root, tmp_path / "run"))
    before = write_page(run).read_text("utf-8")
    opened = OpenedRun.open(run.root)
    write_names(run.names, TWO, opened.digest("kmeans"))
    html, page = write(run)
    assert TWO.classes[1].name in page.words and TWO.classes[1].name not in html  # escaped
    pictures = [base64.b64decode(source.partition(",")[2]) for source in page.values("src") if "image/png" in source]
    colours = set()
    for picture in pictures:
        with Image.open(io.BytesIO(picture)) as image:
            colours |= {tuple(c) for c in np.array(image.convert("RGB")).reshape(-1, 3).tolist()}
    assert {(1, 2, 3), (9, 8, 7)} & colours
    run.names.unlink()
    assert write_page(run).read_text("utf-8") == before

    write_names(run.names, TWO, "kmeans 000000000000")
    with pytest.raises(StaleInputError, match="clustered again"):
        write_page(run)
