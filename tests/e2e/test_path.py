"""The whole path by its commands, on tiny data: what the README tells a user to type."""

from __future__ import annotations

import json

import pytest

from tests.launching import stego
from tests.tiny import build_shards, config_at, embed_and_search, write_images

pytestmark = [pytest.mark.e2e, pytest.mark.ray]


def test_from_a_folder_of_images_to_a_report(tmp_path):
    write_images(tmp_path / "images")
    config_at(tmp_path, "train.steps=4")
    config, shards = str(tmp_path / "config.yaml"), str(tmp_path / "shards")
    stego(1, "shards", "build", "folder", "--source", str(tmp_path / "images"), "--out", shards)
    assert "picture" not in stego(1, "shards", "verify", shards).stdout
    stego(1, "knn", "build", config, "features.workers=2")
    again = stego(1, "knn", "build", config, "features.workers=2")
    assert "14 are there already" in again.stderr
    stego(2, "train", config, "train.steps=4", "loss.preset=null", "loss.calibration_images=8")
    calibrated = json.loads((tmp_path / "run" / "calibration.json").read_text())["kinds"]
    evaluated = stego(1, "eval", str(tmp_path / "run"), "--baseline", "--json")
    results = json.loads(evaluated.stdout)
    assert results == json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["images"] == 5 and results["classes"] == ["class_0", "class_1"]
    assert results["coefficients"]["knn"]["shift"] == calibrated["knn"]["shift"]
    assert 0 < results["measures"]["kmeans"]["miou"] <= 1
    printed = stego(1, "report", str(tmp_path / "run")).stdout
    assert "raw features, k-means" in printed and "class_1" in printed
    page = (tmp_path / "run" / "report.html").read_text()
    assert page.count('class="panel"') == 5 and "data:image/webp;base64" in page  # best, median, worst, two spread
    assert "Nearest neighbours of training crops" in page and "Average precision" in page


def test_a_stale_table_is_refused_by_name(tmp_path):
    build_shards(tmp_path)
    embed_and_search(config_at(tmp_path))
    done = stego(1, "train", str(tmp_path / "config.yaml"), "data.resolution=40", check=False)
    assert done.returncode == 1
    assert "data.resolution: made with 32, now 40" in done.stderr and "stego-dist knn build" in done.stderr
    assert "Traceback" not in done.stderr
