"""Rows and colours, from results in the shape that engine/evaluate.py gives."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from stego_dist import console
from stego_dist.engine.panel import Panel
from stego_dist.metrics.matching import Matching
from stego_dist.report import tables
from stego_dist.report.panels import GAP, HEADER, cluster_colours, colours, paint, write_panels
from stego_dist.report.published import PUBLISHED
from stego_dist.report.tables import main_rows, percent, print_results, readable, use_rows
from tests.report.made import PALETTE, entry, labelled_results, unlabelled_results
from tests.tiny import build_shards

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
        "raw features": {"measures": {"kmeans": entry(0.3, 0.1, [0.1] * 3), "kmeans+crf": entry(0.4, 0.2, [0.1] * 3)}},
        "MoCo": {"backbone": "resnet50", "measures": {"linear": entry(0.6, 0.5, [0.1] * 3)}},
    }
    rows = main_rows(results)[5:]
    assert [(r.what, r.accuracy, r.miou) for r in rows] == [
        ("raw features, k-means", 0.3, 0.1),
        ("raw features, k-means, CRF", 0.4, 0.2),
        ("MoCo, linear probe (labels)", 0.6, 0.5),
    ]
    assert [r.backbone for r in rows] == ["vit_x", "vit_x", "resnet50"]


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


@pytest.mark.parametrize(
    ("height", "width", "wanted"), [(20, 33, (20, 33)), (600, 800, (270, 360)), (900, 300, (360, 120))]
)
def test_pictures_keep_their_aspect_ratio_within_bounds(tmp_path, height, width, wanted):
    shard_set = build_shards(tmp_path, train=5, val=1)
    ids = np.zeros((height, width), np.int16)
    ids[:, width // 3 :] = 1
    image = colours(shard_set.palette)[ids]
    panel = Panel("a", image, ids, {"linear": ids, "linear+crf": ids, "kmeans+crf": ids})
    matchings = {"kmeans+crf": Matching((1, 0), np.zeros((2, 2), np.int64))}
    (path,) = write_panels([panel], matchings, {"labelled": False}, shard_set, tmp_path / "panels")
    sheet = np.asarray(Image.open(path).convert("RGB"))
    high, wide = wanted
    assert sheet.shape == (HEADER + high, 5 * (wide + GAP) - GAP, 3)
    tiles = [sheet[HEADER:, n * (wide + GAP) : n * (wide + GAP) + wide].astype(int) for n in range(5)]
    for n in (1, 2, 3):  # label, linear probe, and it after the CRF: colours of classes
        assert np.abs(tiles[n] - tiles[0]).mean() < 2
    swapped = colours(shard_set.palette[::-1])[(np.arange(wide) >= wide / 3).astype(int)]
    assert np.abs(tiles[4][0] - swapped).mean() < 2  # clusters after the CRF: by their own matching


# --- use of clusters


def use(agreement: float | None = 0.5) -> dict:
    found = {"clusters": 3, "used": 2, "largest": 0.75, "median": 0.25, "smallest": 0.0, "entropy": 0.512}
    return {**found, "agreement": agreement}


def test_clusters_without_labels_stand_beside_those_of_baselines(run, printed):
    results = unlabelled_results() | {
        "cluster_use": {"kmeans": use(0.625), "learned": use(None)},
        "more_resolutions": {"64": {"cluster_use": {"kmeans": use(None)}}},
        "baselines": {
            "raw features": {"words": {"kmeans": "k-means"}, "cluster_use": {"kmeans": use(0.125)}},
            "MoCo": {"backbone": "resnet50", "cluster_use": {"kmeans+crf": use()}},
        },
    }
    rows = use_rows(results)
    assert [(row.what, row.backbone, row.headline) for row in rows] == [
        ("STEGO, k-means over codes", "vit_x", False),
        ("STEGO, learned cluster probe", "vit_x", True),
        ("STEGO, k-means over codes, 64 pixels", "vit_x", False),
        ("raw features, k-means", "vit_x", False),
        ("MoCo, k-means, CRF", "resnet50", False),
    ]
    print_results(results, run)
    lines = printed().splitlines()
    for row, agreement in zip(rows, ("62.5", "–", "–", "12.5", "50.0")):
        (line,) = [line for line in lines if line.startswith(f"│ {row.what} ")]
        cells = [cell.strip() for cell in line.split("│")[1:-1]]
        assert cells == [row.what, row.backbone, "2 of 3", "75.0", "25.0", "0.0", "51.2", agreement]
