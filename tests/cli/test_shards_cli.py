from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from stego_dist.cli import shards
from stego_dist.errors import ConfigError, UserError
from tests.data import miniatures


def run(*argv: object) -> int:
    parser = argparse.ArgumentParser()
    shards.add_parser(parser.add_subparsers())
    args = parser.parse_args(["shards", *map(str, argv)])
    return args.run(args)


@pytest.fixture
def raw(tmp_path) -> Path:
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for i in range(3):
            ids = np.kron(rng.integers(0, 4, (3, 4)), np.ones((8, 8))).astype(np.uint8)
            for folder, pixels, suffix in (
                ("imgs", (ids[..., None] * [50, 60, 70]), "jpg"),
                ("labels", ids, "png"),
            ):
                path = tmp_path / "raw" / folder / split / f"{i}.{suffix}"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels.astype(np.uint8)).save(path)
    return tmp_path / "raw"


def test_build_verify_show(raw, tmp_path, capsys):
    out = tmp_path / "out"
    assert run("build", "folder", "--source", raw, "--out", out, "--crops", "five", "--json") == 0
    built = json.loads(capsys.readouterr().out)
    assert built["classes"] == [f"class_{i}" for i in range(4)] and built["options"]["crops"] == "five"
    assert {name: (s["images"], s["samples"]) for name, s in built["splits"].items()} == {
        "train": (3, 15),
        "val": (3, 15),
    }

    assert run("verify", out) == 0
    assert "whole" in capsys.readouterr().out

    assert run("show", out) == 0
    text = capsys.readouterr().out
    assert "class_3" in text and "train" in text
    assert Image.open(out / "sheet-train.png").width > 200 and (out / "sheet-val.png").exists()
    assert run("show", out, "--sheet", tmp_path / "mine.png", "--json") == 0
    assert json.loads(capsys.readouterr().out) == built
    assert (tmp_path / "mine.png").exists()


def test_verify_fails_and_names_every_bad_file(raw, tmp_path, capsys):
    out = tmp_path / "out"
    run("build", "folder", "--source", raw, "--out", out)
    (out / "train-00001.tar").write_bytes(b"cut")
    (out / "val-00002.index.npz").unlink()
    capsys.readouterr()
    assert run("verify", out, "--json") == 1
    found = json.loads(capsys.readouterr().out)
    assert not found["ok"]
    assert {Path(p.split(": ")[0]).name for p in found["problems"]} == {
        "train-00001.tar",
        "val-00002.index.npz",
    }
    assert run("verify", out, "--workers", 1) == 1
    text = capsys.readouterr().out
    assert "train-00001.tar" in text and "val-00002.index.npz" in text and "problems" in text


def test_overwrite_and_stale(raw, tmp_path):
    out = tmp_path / "out"
    run("build", "folder", "--source", raw, "--out", out, "--splits", "train", "--workers", 1)
    with pytest.raises(UserError, match="train-00000"):
        run("build", "folder", "--source", raw, "--out", out, "--crops", "random")
    assert run("build", "folder", "--source", raw, "--out", out, "--crops", "random", "--overwrite") == 0


def test_a_dry_run_writes_nothing_and_says_what_a_build_then_writes(raw, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = ("build", "folder", "--source", raw, "--out", out, "--crops", "five", "--max-side", 20)
    assert run(*arguments, "--dry-run", "--json") == 0
    said = json.loads(capsys.readouterr().out)["splits"]
    assert run(*arguments, "--dry-run") == 0
    assert "15" in capsys.readouterr().out and not out.exists()
    assert run(*arguments, "--json") == 0
    built = json.loads(capsys.readouterr().out)
    assert built["options"]["max_side"] == 20
    for name, split in built["splits"].items():
        assert (said[name]["images"], said[name]["samples"], said[name]["shards"]) == (3, 15, split["shards"])
        assert 1 / 1.5 < said[name]["bytes"] / split["bytes"] < 1.5


def test_cards_are_listed(capsys):
    assert run("cards", "--json") == 0
    cards = json.loads(capsys.readouterr().out)
    assert {"folder", "camvid11", "cocostuff27", "potsdam3_raw"} <= set(cards)
    assert run("cards") == 0
    text = capsys.readouterr().out
    for name, card in cards.items():
        assert name in text
        for count in (card["expected"] or {}).values():
            assert f"{count:,}" in text
    assert "(trainval 2,913)" in text and "source's" in text and "SegNet" in text


def test_one_card_is_shown_whole(capsys, tmp_path):
    assert run("cards", "potsdam3") == 0
    text = capsys.readouterr().out
    assert text.startswith("# ISPRS Potsdam") and yaml.safe_load(text)["label_array"] == "gt"
    (tmp_path / "mine.yaml").write_text(text)
    assert run("cards", tmp_path / "mine.yaml", "--json") == 0
    assert json.loads(capsys.readouterr().out)["expected"]["all"] == 8550
    with pytest.raises(UserError, match=r"'potsdam4'.*potsdam3_raw"):
        run("cards", "potsdam4")
    (tmp_path / "mine.yaml").write_text("name: x\n")
    with pytest.raises(UserError, match=r"mine\.yaml is wrong"):
        run("cards", tmp_path / "mine.yaml")


def test_lists_from_elsewhere(tmp_path, capsys):
    mini = miniatures.cocostuff(tmp_path / "raw")
    (mini.root / "curated").rename(tmp_path / "curated")
    argv = ("build", "cocostuff15", "--source", mini.root, "--lists", tmp_path, "--out", tmp_path / "out", "--json")
    assert run(*argv) == 0
    splits = json.loads(capsys.readouterr().out)["splits"]
    assert {name: split["images"] for name, split in splits.items()} == {"train": 3, "val": 3}


def test_tiles_by_options(raw, tmp_path, capsys):
    mini = miniatures.potsdam_raw(tmp_path / "potsdam", {"train": ("2_10",)}, (240, 240))

    def build(card, source, *options):
        out = tmp_path / "_".join(map(str, options))
        assert run("build", card, "--source", source, "--out", out, "--splits", "train", "--json", *options) == 0
        captured = capsys.readouterr()
        assert "expected" not in captured.err
        return json.loads(captured.out)["splits"]["train"]["images"]

    assert build("potsdam3_raw", mini.root, "--tile", 60) == 4
    assert build("potsdam3_raw", mini.root, "--tile", 60, "--overlap", 30) == 9
    assert build("potsdam3_raw", mini.root, "--tile", 60, "--shrink", 1) == 16
    assert build("folder", raw, "--tile", 16) == 3 * 2 * 2
    for options, complaint in (
        (("--tile", 0), "tile.size"),
        (("--overlap", 4), "need --tile"),
        (("--tile", 4, "--overlap", 4), "cannot overlap"),
    ):
        with pytest.raises(ConfigError, match=complaint):
            run("build", "folder", "--source", raw, "--out", tmp_path / "o", *options)
    with pytest.raises(ConfigError, match="taken whole"):
        run("build", "potsdam3", "--source", raw, "--out", tmp_path / "o", "--tile", 50)


def test_bad_usage(raw, tmp_path):
    with pytest.raises(ConfigError, match="--workers"):
        run("build", "folder", "--source", raw, "--out", tmp_path / "o", "--workers", 0)
    with pytest.raises(ConfigError, match="ratio"):
        run("build", "folder", "--source", raw, "--out", tmp_path / "o", "--ratio", 2)
    with pytest.raises(ConfigError, match="max_side must be positive, got -1"):
        run("build", "folder", "--source", raw, "--out", tmp_path / "o", "--max-side", -1)
    with pytest.raises(UserError, match="shards build"):
        run("show", tmp_path)
