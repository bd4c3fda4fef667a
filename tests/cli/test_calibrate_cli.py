"""`stego-dist calibrate`: its table, its files, and the settings that it advises."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from stego_dist.cli import main
from stego_dist.config import load_config
from stego_dist.engine.calibrate import calibrate_config
from tests.tiny import build_shards, config_at, embed_and_search

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("calibrate")
    build_shards(root)
    embed_and_search(config_at(root, loss={"points": 3, "negatives": 2, "group_size": 4, "calibration_images": 8}))
    return root / "config.yaml"


def test_the_table_has_every_number(config, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["calibrate", str(config)]) == 0
    printed = capsys.readouterr().out
    record = calibrate_config(load_config(config))
    written = json.loads((config.parent / "features" / "calibration.json").read_text())
    assert {key: written[key] for key in record} == json.loads(json.dumps(record))
    for entry in record["kinds"].values():
        for text in (f"{entry['shift']:.4g}", f"{entry['weight']:.4g}", f"{entry['mean']:.3f}", f"{entry['pairs']:,}"):
            assert text in printed
        assert all(f"{value:.3f}" in printed for value in entry["quantiles"])
    assert "What is auto takes these numbers" in printed and max(map(len, printed.splitlines()[:18])) <= 80


def test_the_advice_can_be_followed(config, capsys, tmp_path):
    assert main(["calibrate", str(config), "--json", "--out", str(tmp_path / "shown")]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown == json.loads((tmp_path / "shown" / "calibration.json").read_text())
    loss = load_config(config, shown["overrides"]).loss
    for kind, entry in shown["kinds"].items():
        assert (loss.pairs[kind].weight, loss.pairs[kind].shift) == (entry["weight"], entry["shift"])


def test_the_picture_has_chosen_and_configured_shifts(config, tmp_path, capsys):
    arguments = ["calibrate", str(config), "--out", str(tmp_path), "loss.preset=iaroa", "loss.self_pair.shift=auto"]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert "configured shift" in printed and "0.12" in printed and "auto" in printed
    root = ElementTree.parse(tmp_path / "calibration.svg").getroot()
    texts = ["".join(element.itertext()) for element in root.iter(f"{SVG}text")]
    assert sum(text.startswith("shift ") for text in texts) == 3
    assert [text for text in texts if text.startswith("configured ")] == ["configured 0.12", "configured 0.46"]
    assert len(list(root.iter(f"{SVG}polygon"))) == 3


def test_where_nothing_is_auto_it_says_how_to_get_there(config, tmp_path, capsys):
    assert main(["calibrate", str(config), "loss.preset=iaroa", "--out", str(tmp_path)]) == 0
    assert "Nothing is auto; to have it calibrated: loss.self_pair.shift=auto" in capsys.readouterr().out


def test_without_a_number_of_clusters_and_without_a_table(tmp_path, capsys):
    build_shards(tmp_path, labels=False)
    path = str(tmp_path / "config.yaml")
    config = config_at(tmp_path)
    assert main(["calibrate", path]) == 1
    assert "stego-dist knn build" in capsys.readouterr().err
    embed_and_search(config)
    assert main(["calibrate", path]) == 0
    assert "The number of clusters is not known (clusters.count)" in capsys.readouterr().out


def test_help_has_an_example(capsys):
    with pytest.raises(SystemExit):
        main(["calibrate", "--help"])
    assert "stego-dist calibrate configs/camvid11_vitti16.yaml" in capsys.readouterr().out
