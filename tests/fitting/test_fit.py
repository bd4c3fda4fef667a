"""A folder of images to clusters and a report, by the command and from Python."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import stego_dist
from stego_dist.cli import main
from stego_dist.errors import ConfigError, UserError
from stego_dist.fitting.plan import Request
from stego_dist.fitting.run import fit, forget
from tests.launching import stego
from tests.tiny import write_images

SMALL = (
    "backbone.options={img_size: 32, patch_size: 8, depth: 1, embed_dim: 24, num_heads: 2}",
    "head.code_dim=6", "loss.points=3", "loss.negatives=2", "features.workers=1", "data.workers=0",
    "clusters.restarts=2", "clusters.iterations=10", "train.trackers=[]",
)  # fmt: skip
OPTIONS = ("--backbone", "vit_tiny_patch16_224", "--weights", "random", "--steps", "4", "--resolution", "32")


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """18 pictures in two folders, one of them damaged."""
    root = tmp_path_factory.mktemp("photos")
    write_images(root / "made", train=12, val=6, labels=False)
    folder = root / "my <i>photos"
    shutil.move(root / "made" / "imgs", folder)
    (folder / "train" / "picture_03.jpg").write_bytes(b"damaged")
    return folder


@pytest.fixture(scope="module")
def fitted(photos, tmp_path_factory) -> tuple[Path, dict]:
    """A fit by the command, and what it printed."""
    out = tmp_path_factory.mktemp("fitted") / "out"
    done = stego(1, "fit", str(photos), "--out", str(out), *OPTIONS, *SMALL, "--json")
    said = " ".join(done.stderr.split())
    assert "18 images" in said and "takes about" in said and "writes about" in said
    return out, json.loads(done.stdout)


@pytest.mark.ray
def test_a_folder_becomes_a_run(fitted):
    out, said = fitted
    assert said == json.loads((out / "fit.json").read_text())
    result, choice = said["result"], said["choice"]
    assert choice["images"] == 18 and choice["crops"] == "none" and result["rejected"] == 1
    assert result["clusters"] == result["count"]["chosen"] >= 2
    page = (out / "report.html").read_text("utf-8")
    assert "How many clusters?" in page and "<i>photos" not in page
    results = json.loads((out / "results.json").read_text())
    assert not results["labelled"] and len(results["cluster_shares"]["kmeans"]) == result["clusters"]
    assert f"{result['clusters'] - 1}: {{name:" in (out / "names.yaml").read_text("utf-8")


@pytest.mark.ray
def test_a_second_call_only_reports_and_other_options_are_refused(fitted, photos, capsys):
    out, said = fitted
    model, names = (out / "model.safetensors").read_bytes(), (out / "names.yaml").read_text("utf-8")
    (out / "names.yaml").write_text(names.replace('"cluster 0"', '"mine"'), "utf-8")
    assert main(["fit", str(photos), "--out", str(out), *OPTIONS, *SMALL, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == said
    assert (out / "model.safetensors").read_bytes() == model
    assert '"mine"' in (out / "names.yaml").read_text("utf-8") and "mine" in (out / "report.html").read_text("utf-8")
    assert main(["fit", str(photos), "--out", str(out), *OPTIONS, *SMALL, "--seed", "1"]) == 1
    printed = capsys.readouterr().err
    assert "seed: made with 0, now 1" in printed and "--overwrite" in printed


@pytest.mark.ray
def test_programs_load_it_and_fit(fitted, photos, tmp_path):
    out, said = fitted
    model = stego_dist.load(out)
    seg = model(photos / "train" / "picture_00.jpg")
    assert seg.size == (44, 52) == seg.labels.shape and sum(seg.shares().values()) == pytest.approx(1)
    assert len(model.names.of_cluster) == said["result"]["clusters"]

    told = []
    two = tmp_path / "two"
    two.mkdir()
    for n in (0, 1):
        shutil.copy(photos / "train" / f"picture_0{n}.jpg", two)
    asked = dict(backbone="vit_tiny_patch16_224", weights="random", steps=2, resolution=32, overrides=SMALL)
    begun = Request(classes=3, **{**asked, "overrides": tuple(SMALL)})
    cut = lambda arguments: 1 if arguments[0] == "train" else main(arguments)  # noqa: E731
    with pytest.raises(UserError, match="train .* ended with exit code 1"):
        fit(two, tmp_path / "small", begun, cut, tell=lambda choice, folder: told.append(choice))
    small = stego_dist.fit(two, tmp_path / "small", classes=3, tell=lambda *_: told.append(None), **asked)  # goes on
    assert [choice.samples for choice in told] == [10] and len(small.names.of_cluster) == 3
    again = stego_dist.fit(two, tmp_path / "small", classes=3, tell=lambda *_: told.append(None), **asked)
    assert len(told) == 1  # nothing is chosen again
    image = two / "picture_00.jpg"
    assert np.array_equal(small(image).labels, again(image).labels)


@pytest.mark.ray
def test_a_single_image_is_learnt_from_its_crops(photos, tmp_path):
    (tmp_path / "one").mkdir()
    shutil.copy(photos / "train" / "picture_00.jpg", tmp_path / "one")
    assert main(["fit", str(tmp_path / "one"), "--out", str(tmp_path / "out"), "--classes", "2", *OPTIONS, *SMALL]) == 0
    assert stego_dist.load(tmp_path / "out")(tmp_path / "one" / "picture_00.jpg").labels.max() <= 1


def test_a_dry_run_says_and_writes_nothing(photos, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["fit", str(photos), "--out", str(out), *OPTIONS, *SMALL, "--time", "2h", "--dry-run"]) == 0
    assert "takes about" in capsys.readouterr().err and not out.exists()


def test_what_would_go_wrong_is_refused_before(photos, tmp_path, capsys):
    assert main(["fit", str(photos), "--out", str(photos / "out"), *OPTIONS]) == 1
    assert "would be taken for yours" in capsys.readouterr().err
    assert main(["fit", str(photos), "--time", "soon", *OPTIONS]) == 2
    assert "is no time" in capsys.readouterr().err
    assert main(["fit", str(photos), "--classes", "1", *OPTIONS]) == 2
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "thesis.tex").write_text("years")
    with pytest.raises(UserError, match=r"no fit.json"):
        forget(tmp_path / "precious")
    assert (tmp_path / "precious" / "thesis.tex").exists()


def test_a_station_that_fails_ends_the_fit_with_its_exit_code(tmp_path):
    from stego_dist.fitting.stations import Stations

    stations = Stations(lambda arguments: 75, 1)
    with pytest.raises(UserError, match="exit code 75") as caught:
        stations.run("train", "x.yaml")
    assert caught.value.exit_code == 75 and not isinstance(caught.value, ConfigError)
