from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stego_dist.cli import shards
from stego_dist.errors import ConfigError, UserError


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
    assert {"folder", "camvid11"} <= set(json.loads(capsys.readouterr().out))
    assert run("cards") == 0
    assert "camvid11" in capsys.readouterr().out


def test_bad_usage(raw, tmp_path):
    with pytest.raises(ConfigError, match="--workers"):
        run("build", "folder", "--source", raw, "--out", tmp_path / "o", "--workers", 0)
    with pytest.raises(ConfigError, match="ratio"):
        run("build", "folder", "--source", raw, "--out", tmp_path / "o", "--ratio", 2)
    with pytest.raises(ConfigError, match="max_side must be positive, got -1"):
        run("build", "folder", "--source", raw, "--out", tmp_path / "o", "--max-side", -1)
    with pytest.raises(UserError, match="shards build"):
        run("show", tmp_path)
