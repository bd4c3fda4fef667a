"""`knn show`: what it prints, what it writes, what it refuses."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from stego_dist import console
from stego_dist.cli import main
from stego_dist.config import dump_config
from stego_dist.data.card import load_card
from stego_dist.data.pack import build
from stego_dist.data.plan import BuildOptions
from stego_dist.knn.table import knn_dir
from stego_dist.report.neighbours import FRAME, GAP, LINE, NEIGHBOURS, SAME_IMAGE, SIDE
from tests.tiny import config_at, embed_and_search, write_images


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Shards of five crops an image, their features and table."""
    root = tmp_path_factory.mktemp("shown")
    source = write_images(root / "source", train=4, val=1)
    build(load_card("folder"), source, root / "shards", BuildOptions(crops="five", min_shards=3))
    embed_and_search(config_at(root))
    return root


@pytest.fixture
def work(made, tmp_path, monkeypatch):
    monkeypatch.setattr(console.out, "width", 160)
    monkeypatch.setattr(console.err, "width", 160)
    return shutil.copytree(made, tmp_path / "work")


def shown(capsys, *arguments: str) -> dict:
    assert main(["knn", "show", *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_numbers_are_the_tables(work, capsys):
    config = config_at(work)
    found = shown(capsys, str(work / "config.yaml"))
    assert found == json.loads((knn_dir(config) / "show.json").read_text())
    ids = np.concatenate([np.load(f) for f in sorted(knn_dir(config).glob("*.ids.npy"))])
    assert ids.shape == (20, 5) and found["crops"] == 20 and found["k"] == 5
    source = np.arange(20) // 5
    assert found["same_image"] == pytest.approx((source[ids[:, 1:]] == source[:, None]).mean())
    counts = np.bincount(ids[:, 1:].ravel(), minlength=20)
    assert found["hubness"]["largest"] == counts.max() and found["hubness"]["ranks"] == 4
    assert found["hubness_of_positives"]["largest"] == np.bincount(ids[:, 1:4].ravel()).max()
    assert found["method"] == "exact" and found["recall"] is None and found["picture_missing"] is None


def test_the_picture_frames_crops_of_the_same_image(work, capsys):
    found = shown(capsys, str(work / "config.yaml"), "--out", str(work / "elsewhere"))
    assert found["picture"] == str(work / "elsewhere" / "neighbours.png")
    assert not (knn_dir(config_at(work)) / "show.json").exists()
    with Image.open(found["picture"]) as image:
        sheet = np.array(image)
    ids = np.concatenate([np.load(f) for f in sorted((work / "features" / "knn").glob("*.ids.npy"))])
    step, high = SIDE + 2 * FRAME + GAP, 2 * LINE + SIDE + 2 * FRAME + GAP
    rows = [found["lowest"], found["median"], found["highest"], found["hubness"]["hub"]]
    assert sheet.shape[1] == min(NEIGHBOURS + 1, 5) * step and sheet.shape[0] == LINE + GAP + 10 * high
    framed = []
    for r, crop in enumerate(rows):
        for c in range(1, 5):
            top, left = LINE + GAP + r * high + LINE, c * step
            corner = tuple(sheet[top, left].tolist())
            same = ids[crop, c] // 5 == crop // 5
            assert corner == (SAME_IMAGE if same else (255, 255, 255))
            framed.append(same)
            inside = sheet[top + FRAME : top + FRAME + SIDE, left + FRAME : left + FRAME + SIDE]
            assert inside.std() > 5
    assert any(framed) and not all(framed)


def test_a_run_serves_as_well_as_its_configuration(work, capsys):
    run = work / "run"
    run.mkdir()
    (run / "config.yaml").write_text(dump_config(config_at(work)))
    assert shown(capsys, str(run)) == shown(capsys, str(work / "config.yaml"))


def test_tables_for_people(work, capsys):
    config_at(work)
    manifest = work / "features" / "knn" / "manifest.json"
    value = {**json.loads(manifest.read_text()), "method": "ivf", "recall": {"recall@3": 0.975, "queries": 64}}
    manifest.write_text(json.dumps(value))
    assert main(["knn", "show", str(work / "config.yaml")]) == 0
    out = capsys.readouterr().out
    assert (
        "20 crops, k 5 (ivf, recall@3 0.975, queries 64)" in out
        and "ranks 1–3 (trained on)" in out
        and "neighbours.png" in out
    )


def test_without_shards_the_numbers_remain(work, capsys):
    config_at(work)
    whole = shown(capsys, str(work / "config.yaml"))
    shutil.move(work / "shards", work / "gone")
    assert main(["knn", "show", str(work / "config.yaml"), "--json"]) == 0
    printed = capsys.readouterr()
    found = json.loads(printed.out)
    assert "the picture is left out" in printed.err and "shard set not found" in found["picture_missing"]
    assert found["picture"] is None and not (work / "features" / "knn" / "neighbours.png").exists()
    assert {**found, "picture": 0, "picture_missing": 0} == {**whole, "picture": 0, "picture_missing": 0}


@pytest.mark.parametrize("shards_there", [True, False])
def test_a_stale_table_is_refused_by_name(work, capsys, shards_there):
    config_at(work)
    if not shards_there:
        shutil.rmtree(work / "shards")
    for override, field in (
        ("knn.k=6", "knn.k: made with 5, now 6"),
        ("data.resolution=40", "data.resolution: made with 32"),
    ):
        assert main(["knn", "show", str(work / "config.yaml"), override]) == 1
        assert field in capsys.readouterr().err
