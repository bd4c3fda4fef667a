"""The example script in cells runs from its first to its last."""

from __future__ import annotations

import runpy
import shutil
import sys

from PIL import Image

from stego_dist.api import load
from stego_dist.engine.train import train
from tests.conftest import REPO
from tests.tiny import build_shards, config_at, embed_and_search


def test_all_cells_run(tmp_path, monkeypatch, capsys):
    build_shards(tmp_path)
    config = config_at(tmp_path)
    embed_and_search(config)
    train(config)
    photos = tmp_path / "photos"
    photos.mkdir()
    for picture in sorted((tmp_path / "source" / "imgs" / "val").iterdir())[:2]:
        shutil.copy(picture, photos)
    asked = {}

    def trained(folder, **options):
        asked.update(options, folder=folder)
        return load(tmp_path / "run")

    monkeypatch.setattr("stego_dist.api.fit", trained)  # training has tests of its own
    monkeypatch.setattr(sys, "argv", ["my_photos.py", str(photos), "backbone=some_model"])
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(REPO / "launchers" / "python" / "my_photos.py"), run_name="__main__")
    assert asked["folder"] == photos and asked["backbone"] == "some_model"
    assert "picture_00.jpg: 52×44 pixels" in capsys.readouterr().out
    with Image.open("segmented_01.png") as index, Image.open("overlay.png") as overlay:
        assert index.mode == "P" and index.size == (52, 44) == overlay.size
