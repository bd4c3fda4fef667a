"""Rows, colours and the page, from results in the shape that engine/evaluate.py gives."""

from __future__ import annotations

import base64
import io
import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from stego_dist import console
from stego_dist.engine.evaluate import Panel
from stego_dist.errors import UserError
from stego_dist.metrics.matching import Matching
from stego_dist.report import tables
from stego_dist.report.page import write_page
from stego_dist.report.panels import GAP, HEADER, cluster_colours, colours, paint, write_panels
from stego_dist.report.published import PUBLISHED
from stego_dist.report.tables import main_rows, percent, print_results, readable
from stego_dist.rundir import RunDir, write_json
from tests.tiny import build_shards

CLASSES = ["sky", '<b>road</b> & "kerb"', "pole'"]
PALETTE = [(10, 20, 30), (200, 100, 0), (0, 255, 7)]


def entry(accuracy: float, miou: float, ious: list[float | None]) -> dict[str, Any]:
    return {
        "accuracy": accuracy,
        "miou": miou,
        "iou": dict(zip(CLASSES, ious)),
        "confusion": [[3, 0, 1], [0, 2, 0], [0, 0, 0]],
    }


def labelled_results(dataset: str = "mine", run: str = "night") -> dict[str, Any]:
    return {
        "format": "stego_dist.results/1",
        "run": run,
        "step": 50,
        "seed": 3,
        "backbone": "vit_x",
        "weights": "random",
        "dataset": dataset,
        "split": "val",
        "images": 4,
        "resolution": 32,
        "flip": True,
        "crf": "cluster",
        "headline_clusters": "learned",
        "seconds": 1.5,
        "labelled": True,
        "classes": CLASSES,
        "measures": {
            "kmeans": {
                **entry(0.5, 0.25, [0.5, 0.0, None]),
                "cluster_to_class": [1, 0, 2, -1],
                "published_counting": {"accuracy": 0.75, "miou": 0.375},
            },
            "learned": {**entry(0.625, 0.3125, [0.125, 0.5, None]), "cluster_to_class": [0, 1, 2]},
            "learned+crf": {**entry(0.6875, 0.34, [0.2, 0.5, None]), "cluster_to_class": [0, 1, 2]},
            "linear": entry(0.875, 0.7, [0.7, 0.7, None]),
        },
        "classes_without_pixels": ["pole'"],
    }


def unlabelled_results() -> dict[str, Any]:
    results = labelled_results()
    for key in ("classes", "measures", "classes_without_pixels"):
        del results[key]
    shares = {"kmeans": [0.25, 0.75, 0.0], "learned": [0.5, 0.125, 0.375]}
    return {**results, "labelled": False, "cluster_shares": shares}


@pytest.fixture
def run(tmp_path) -> RunDir:
    run = RunDir(tmp_path / "run")
    run.panels.mkdir(parents=True)
    run.config.write_text("name: night  # <i>&\n", "utf-8")
    write_json(run.provenance, {"torch": "2", "inputs": {"shards": "</pre><script>"}})
    write_json(run.results, labelled_results())
    return run


# --- tables


def test_main_rows_are_ours_with_the_headline_marked():
    rows = main_rows(labelled_results())
    assert [(r.what, r.accuracy, r.miou, r.headline) for r in rows] == [
        ("STEGO, k-means over codes", 0.5, 0.25, False),
        ("STEGO, k-means over codes (published counting of extra clusters)", 0.75, 0.375, False),
        ("STEGO, learned cluster probe", 0.625, 0.3125, True),
        ("STEGO, learned cluster probe, CRF", 0.6875, 0.34, False),
        ("STEGO, linear probe (labels)", 0.875, 0.7, False),
    ]
    assert {r.backbone for r in rows} == {"vit_x"} and {r.source for r in rows} == {"this run"}


def test_baselines_follow_ours():
    results = labelled_results()
    results["baselines"] = {
        "raw features": {"measures": {"kmeans": entry(0.3, 0.1, [0.1] * 3), "kmeans+crf": entry(0.4, 0.2, [0.1] * 3)}}
    }
    rows = main_rows(results)[5:]
    assert [(r.what, r.accuracy, r.miou) for r in rows] == [
        ("raw features, k-means", 0.3, 0.1),
        ("raw features, k-means, CRF", 0.4, 0.2),
    ]


@pytest.mark.parametrize("dataset", sorted(PUBLISHED))
def test_published_rows_come_with_their_own_data_set_and_a_source(dataset):
    published = [r for r in main_rows(labelled_results(dataset)) if r.source != "this run"]
    expected = []
    for row in PUBLISHED[dataset]:
        expected.append((row.method, row.accuracy / 100, row.miou and row.miou / 100))
        if row.linear_accuracy is not None:
            expected.append((f"{row.method}, linear", row.linear_accuracy / 100, row.linear_miou / 100))
    assert [(r.what, r.accuracy, r.miou) for r in published] == expected and expected
    assert all(r.source.strip() and r.backbone and not r.headline for r in published)
    assert all(0 < r.accuracy < 1 for r in published)


def test_the_papers_headline_numbers():
    """Hamilton et al., tables 1 and 2 (ViT-B/8)."""
    assert {(r.accuracy, r.miou) for r in PUBLISHED["cocostuff27"]} >= {(56.9, 28.2), (48.1, 13.8)}
    assert {(r.accuracy, r.miou) for r in PUBLISHED["cityscapes27"]} >= {(73.2, 21.0), (65.5, 12.3)}


@pytest.mark.parametrize(
    ("value", "text"), [(None, "–"), (0.0, "0.0"), (1.0, "100.0"), (0.4213, "42.1"), (0.4217, "42.2")]
)
def test_percent(value, text):
    assert percent(value) == text


def test_readable_names():
    assert readable("kmeans+crf") == "k-means over codes, CRF" and readable("linear") == "linear probe (labels)"
    assert readable("other") == "other"


@pytest.fixture
def printed(monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr(console, "out", Console(file=stream, width=200))
    assert tables.console is console
    return stream.getvalue


def test_print_results_with_labels(run, printed):
    print_results(labelled_results(), run)
    text = printed()
    assert "62.5" in text and "31.2" in text and "No published STEGO result is known for mine" in text
    assert "Classes without labelled pixels: pole'" in text and str(run.root / "report.html") in text.replace("\n", "")


def test_print_results_without_labels(run, printed):
    print_results(unlabelled_results(), run)
    text = printed()
    assert "37.5" in text and "No labels in this split" in text and "mIoU %" not in text


# --- panels


def test_paint_gives_each_id_its_colour_and_black_to_none():
    rng = np.random.default_rng(0)
    ids = rng.integers(-1, 3, (7, 5)).astype(np.int16)
    painted = paint(ids, colours(PALETTE))
    assert painted.shape == (7, 5, 3) and painted.dtype == np.uint8
    for y in range(7):
        for x in range(5):
            assert tuple(painted[y, x]) == (PALETTE[ids[y, x]] if ids[y, x] >= 0 else (0, 0, 0))


def test_clusters_take_the_colours_of_their_classes():
    tints = cluster_colours(4, [2, -1, 0, 1], PALETTE)
    assert [tuple(tints[i]) for i in (0, 2, 3)] == [PALETTE[2], PALETTE[0], PALETTE[1]]
    assert tuple(tints[1]) not in [*PALETTE, (0, 0, 0)]


def test_clusters_without_classes_have_colours_of_their_own():
    for mapping in (None, [-1] * 12):
        tints = [tuple(t) for t in cluster_colours(12, mapping, PALETTE)]
        assert len(set(tints)) == 12 and not {*tints} & {*PALETTE, (0, 0, 0)}


def test_a_mapping_may_be_longer_than_what_an_image_shows():
    """The highest cluster of one picture can be lower than the number of clusters."""
    tints = cluster_colours(2, [0, 1, 2, -1], PALETTE)
    assert [tuple(tint) for tint in tints[:3]] == PALETTE and len(tints) == 4


def test_write_panels_pictures(tmp_path):
    shard_set = build_shards(tmp_path, train=5, val=1)
    palette = shard_set.palette
    assert len(palette) == 2
    label = np.full((20, 20), -1, np.int16)
    label[:, 10:] = 1
    clusters = np.zeros((20, 20), np.int16)
    clusters[10:] = 2
    image = np.random.default_rng(0).integers(0, 256, (20, 20, 3)).astype(np.uint8)
    panels = [
        Panel("a/b ü", image, label, {"kmeans": clusters, "linear": clusters // 2}),
        Panel("c", image, None, {"kmeans": clusters, "linear": clusters // 2}),
    ]
    matchings = {"kmeans": Matching((1, -1, 0, -1), np.zeros((3, 2), np.int64))}  # cluster 3 is not in the picture
    folder = tmp_path / "panels"
    folder.mkdir()
    (folder / "009_old.png").write_text("of an earlier evaluation")
    written = write_panels(panels, matchings, {"labelled": True}, shard_set, folder)
    assert written == sorted(folder.iterdir()) and [path.name for path in written] == [
        "000_a_b_.png",
        "001_c.png",
    ]
    sheet = np.asarray(Image.open(written[0]).convert("RGB"))

    def tile(number: int) -> np.ndarray:
        left = number * (20 + GAP)
        return sheet[HEADER : HEADER + 20, left : left + 20]

    np.testing.assert_array_equal(tile(0), image)
    assert (tile(1)[:, :10] == 0).all() and (tile(1)[:, 10:] == palette[1]).all()
    assert (tile(2)[:10] == palette[1]).all() and (tile(2)[10:] == palette[0]).all()  # clusters 0 and 2
    assert (tile(3)[:10] == palette[0]).all() and (tile(3)[10:] == palette[1]).all()  # classes of the linear probe
    unlabelled = Image.open(written[1])
    assert unlabelled.width == sheet.shape[1] - 20 - GAP  # no label tile


# --- page


class Page(HTMLParser):
    """Text and attributes of a page; refuses what is closed in the wrong order."""

    VOID = ("meta", "img", "br", "polyline")

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.text: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)

    def tags(self) -> set[str]:
        return {tag for tag, _, _ in self.attributes}


def write(run: RunDir) -> tuple[str, Page]:
    path = write_page(run)
    assert path == run.root / "report.html"
    html = path.read_text("utf-8")
    return html, Page(html)


def test_the_page_needs_no_network(run):
    rng = np.random.default_rng(0)
    for name in ("000_a", "001_b"):
        Image.fromarray(rng.integers(0, 256, (4, 4, 3)).astype(np.uint8)).save(run.panels / f"{name}.png")
    write_json(run.results, labelled_results("cocostuff27"))
    html, page = write(run)
    assert "http://" not in html and "https://" not in html and "url(" not in html and "@import" not in html
    assert not [a for a in page.attributes if a[1] in ("href", "xlink:href", "srcset", "action")]
    sources = [value for _, name, value in page.attributes if name == "src"]
    assert len(sources) == 2
    for source, path in zip(sources, sorted(run.panels.glob("*.png"))):
        kind, data = source.split(",")
        assert kind == "data:image/png;base64" and base64.b64decode(data) == path.read_bytes()
    assert all(value for tag, name, value in page.attributes if tag == "img" and name == "alt")
    assert "<script" not in html.lower() and "link" not in page.tags()


def test_names_are_escaped(run):
    write_json(run.results, labelled_results(run="<script>alert(1)</script> & co"))
    html, page = write(run)
    assert "<script" not in html and "<b>road" not in html and "<i>&" not in html
    text = " ".join(page.text)
    assert "<script>alert(1)</script> & co" in text  # shown as it is
    assert CLASSES[1] in text and "name: night  # <i>&" in text and "</pre><script>" in text


def test_the_page_shows_the_scores(run):
    html, page = write(run)
    cells = [text.strip() for text in page.text]
    for row in main_rows(labelled_results()):
        at = cells.index(row.what)
        shown = [text for text in cells[at : at + 8] if text]
        assert shown[:5] == [row.what, row.backbone, percent(row.accuracy), percent(row.miou), row.source]
    assert html.count('class="headline"') == 1
    assert "–" in cells  # the class without pixels has no IoU
    assert "50 steps with seed 3" in html


def test_a_page_without_labels(run):
    write_json(run.results, unlabelled_results())
    _, page = write(run)
    text = " ".join(page.text)
    assert "no accuracy and no mIoU" in text and "37.5" in text and "IoU per class" not in text
    assert "Pictures" not in text and "Correspondence loss" not in text


def test_the_loss_curve(run):
    values = [0.9, 0.5, 0.7, 0.1]
    lines = [{"step": 10 * (i + 1), "loss/correspondence": value} for i, value in enumerate(values)]
    lines.insert(2, {"step": 25, "val/score": 1.0})  # a line of something else
    run.metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))
    html, page = write(run)
    ((points,),) = [[value for tag, name, value in page.attributes if (tag, name) == ("polyline", "points")]]
    places = np.array([[float(v) for v in point.split(",")] for point in points.split()])
    np.testing.assert_allclose(places[:, 0], [0, 200, 400, 600], atol=0.05)
    np.testing.assert_allclose(places[:, 1], 155 - 150 * (np.array(values) - 0.1) / 0.8, atol=0.05)
    assert "Steps 10 to 40, from 0.1000 (bottom) to 0.9000 (top)." in html


@pytest.mark.parametrize("values", [[], [0.3], [0.3, 0.3]])
def test_short_and_flat_curves(run, values):
    run.metrics.write_text(
        "".join(json.dumps({"step": i, "loss/correspondence": v}) + "\n" for i, v in enumerate(values))
    )
    _, page = write(run)
    points = [value for tag, name, value in page.attributes if (tag, name) == ("polyline", "points")]
    assert points == (["0.0,155.0 600.0,155.0"] if len(values) == 2 else [])


def test_what_is_missing_is_named(run, tmp_path):
    run.provenance.unlink()
    with pytest.raises(UserError, match=r"the run's provenance not found: .*provenance\.json"):
        write_page(run)
    run.results.unlink()
    with pytest.raises(UserError, match=rf"results not found: .*Evaluate it first: stego-dist eval {run.root}"):
        write_page(run)
    with pytest.raises(UserError, match="Evaluate it first"):
        write_page(RunDir(Path(tmp_path / "nowhere")))
    assert not (run.root / "report.html").exists()
