"""Every way to compute a step gives the same losses, to the precision that it has."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from stego_dist.engine.train import train
from stego_dist.errors import UserError
from tests.tiny import config_at

STEPS = 6


def run(prepared: Path, folder: Path, *overrides: str) -> tuple[list[dict], dict[str, torch.Tensor]]:
    """Metrics and weights of a run."""
    train(config_at(prepared, f"run_dir={folder}", f"train.steps={STEPS}", *overrides))
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return lines, load_file(folder / "model.safetensors")


@pytest.fixture(scope="module")
def plain(prepared, tmp_path_factory):
    """float32, from the bank by memory map."""
    return run(prepared, tmp_path_factory.mktemp("plain"), "train.bank=memory-map")


def assert_agree(one, other, rel: float) -> None:
    for a, b in zip(one[0], other[0], strict=True):
        names = [name for name in a if name.startswith(("loss/", "code_correlation/"))]
        assert len(names) == 10
        for name in names:
            assert a[name] == pytest.approx(b[name], rel=rel, abs=rel), (a["step"], name)


def test_a_resident_bank_gives_the_same_bits(plain, prepared, tmp_path):
    lines, weights = run(prepared, tmp_path, "train.bank=device")
    assert [{k: v for k, v in line.items() if "/" in k} for line in lines] == [
        {k: v for k, v in line.items() if "/" in k} for line in plain[0]
    ]
    assert all(torch.equal(weights[key], value) for key, value in plain[1].items())


def test_online_agrees_to_half_precision(plain, prepared, tmp_path):
    """The bank holds float16: 11 bits, rounded to 5e-4."""
    assert_agree(run(prepared, tmp_path, "train.features=online"), plain, rel=1e-3)


@pytest.mark.parametrize("features", ["bank", "online"])
def test_bfloat16_agrees_to_its_precision(plain, prepared, tmp_path, features):
    """8 bits: rounded to 4e-3, several times in a row."""
    assert_agree(run(prepared, tmp_path, "train.precision=bf16", f"train.features={features}"), plain, rel=0.03)


def test_compiled_agrees_to_rounding(plain, prepared, tmp_path):
    compiled = run(prepared, tmp_path, "train.compile=true", "train.steps=2")
    assert_agree(compiled, (plain[0][:2], plain[1]), rel=1e-4)


def test_a_compiler_that_is_missing_is_named(prepared, tmp_path, monkeypatch):
    from torch._inductor import config

    torch._dynamo.reset()
    monkeypatch.setattr(config.cpp, "cxx", ("/nowhere/g++",))
    monkeypatch.setattr(config, "fx_graph_cache", False)
    with pytest.raises(UserError, match=r"train\.compile.*C\+\+ compiler.*train\.compile=false"):
        run(prepared, tmp_path, "train.compile=true")


def test_drawn_points_change_the_linear_probe_alone(plain, prepared, tmp_path):
    lines, _ = run(prepared, tmp_path, "train.linear_points=8")
    for a, b in zip(lines, plain[0], strict=True):
        for name in (n for n in a if n.startswith("loss/") and n not in ("loss/linear", "loss/total")):
            assert a[name] == b[name]
        assert a["loss/linear"] != b["loss/linear"] and a["loss/linear"] == pytest.approx(b["loss/linear"], rel=0.5)
