"""`stego-dist plan`: what it takes, what it prints, what it refuses."""

from __future__ import annotations

import json

import pytest

from stego_dist import console
from stego_dist.cli import main
from stego_dist.cli.plan import parse_images
from stego_dist.errors import ConfigError
from stego_dist.jobs import probes
from tests.tiny import config_at

RATES = {
    "pack": 100, "sample_bytes": 50_000, "embed": 200, "train": 4, "knn_flops": 4e10, "knn_matmul_flops": 8e10,
    "knn_scan_flops": 1e10, "knn_query_seconds": 1e-4, "disk_read": 1e9, "disk_write": 5e8, "disk_free": 1e12,
    "memory": 8e9,
}  # fmt: skip
GIVEN = [word for name, value in RATES.items() for word in ("--rate", f"{name}={value:g}")]


@pytest.fixture
def config(tmp_path, monkeypatch):
    config_at(tmp_path)
    monkeypatch.setattr(console.out, "width", 120)
    return str(tmp_path / "config.yaml")


def test_nothing_is_measured_when_all_is_given(config, capsys, monkeypatch):
    for name in ("_machine", "_disk", "_packing", "_embedding", "_training", "_search"):
        monkeypatch.setattr(probes, name, None)
    arguments = ["plan", config, "--images", "1e5,1e6", "--images", "1e9", "--workers", "8", "--crops", "five", *GIVEN]
    printed = []
    for _ in range(2):
        assert main([*arguments, "--json"]) == 0
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1]
    found = json.loads(printed[0])
    assert found["format"] == "stego_dist.plan/1"
    assert {name: entry["value"] for name, entry in found["figures"].items()} == RATES
    assert {entry["origin"] for entry in found["figures"].values()} == {"given"}
    assert [plan["images"] for plan in found["sizes"]] == [100_000, 1_000_000, 1_000_000_000]
    assert found["facts"]["crops"] == 5 and found["facts"]["dim"] == 24 and found["facts"]["grid"] == 4
    stages = {
        "shards",
        "embedding",
        "bank",
        "knn exact",
        "knn ivf",
        "training online",
        "training bank",
        "evaluation",
        "evaluation bank",
    }
    for plan in found["sizes"]:
        assert set(plan) == {"images", "crops", "workers", "stages", "total", "knn", "notes"}
        assert set(plan["stages"]) == stages and plan["workers"] == 8 and plan["crops"] == 5 * plan["images"]
        assert all(set(s) == {"seconds", "bytes", "memory_per_worker"} for s in plan["stages"].values())
    first = found["sizes"][0]
    assert first["stages"]["embedding"]["bytes"] == 500_000 * 24 * 2
    assert first["stages"]["bank"]["bytes"] == 500_000 * 24 * 16 * 2


def test_the_table_for_people(config, capsys):
    assert main(["plan", config, "knn.ivf_code=pq", "--images", "1e5,1e9", "--workers", "8", *GIVEN]) == 0
    out = capsys.readouterr().out
    assert "100,000" in out and "1,000,000,000" in out and "8 worker(s), 1 crop(s) an image" in out
    assert "768 GB" in out  # the bank of 10⁹
    assert "100,000 images: exact search: " in out and "1,000,000,000 images: ivf search: about" in out
    assert "embed 200 (given)" in out


def test_what_is_not_given_is_measured(config, capsys):
    left = [word for word in GIVEN if not word.startswith(("pack", "sample_bytes"))]
    rates = [word for word in left if word != "--rate"]
    assert main(["plan", config, "--images", "1000", *(w for r in rates for w in ("--rate", r)), "--json"]) == 0
    printed = capsys.readouterr()
    assert "measuring this machine: pack, sample_bytes\n" in printed.err
    figures = json.loads(printed.out)["figures"]
    assert figures["pack"]["origin"] == "assumed" and figures["embed"] == {"value": 200, "origin": "given"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--images", "many"], "'many' is no number of images"),
        (["--images", "1e5,"], "'' is no number of images"),
        (["--images", "0"], "'0' is no number of images"),
        (["--images", "nan"], "'nan' is no number of images"),
        (["--images", "1e3", "--rate", "speed=3"], "there is no figure 'speed'; there are pack, sample_bytes, embed"),
        (["--images", "1e3", "--rate", "embed=fast"], "embed='fast' is not a positive number"),
        (["--images", "1e3", "--rate", "embed=-1"], "embed='-1' is not a positive number"),
        (["--images", "1e3", "--workers", "0"], "--workers"),
    ],
)
def test_bad_usage(config, capsys, arguments, message):
    try:
        code = main(["plan", config, *arguments])
    except SystemExit as error:
        code = int(error.code or 0)
    assert code == 2 and message in capsys.readouterr().err


def test_numbers_of_images():
    assert parse_images(["1e5,250000", "1e9"]) == [100_000, 250_000, 10**9]
    with pytest.raises(ConfigError, match="'1e13'"):
        parse_images(["1e13"])
