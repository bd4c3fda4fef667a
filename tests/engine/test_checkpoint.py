"""Checkpoints are whole or not there."""

from __future__ import annotations

import errno

import pytest
import safetensors.torch
import torch

from stego_dist.engine import checkpoint as ckpt
from stego_dist.errors import UserError


def state(step: int) -> ckpt.Checkpoint:
    return ckpt.Checkpoint(step, {"w": torch.full((3,), step)}, {"0.step": torch.tensor(float(step))}, {"skipped": 0})


def test_newest_are_kept(tmp_path):
    for step in (2, 4, 6, 8):
        ckpt.save(tmp_path, state(step), keep=2)
    assert [p.name for p in ckpt.available(tmp_path)] == ["step-00000006", "step-00000008"]
    newest = ckpt.load_newest(tmp_path)
    assert newest.step == 8 and torch.equal(newest.model["w"], torch.full((3,), 8)) and newest.extra == {"skipped": 0}


def test_the_selected_one_is_kept_beside_the_newest(tmp_path):
    for step, selected in ((1, 1), (2, 1), (3, 1), (4, 4), (5, 4)):
        ckpt.save(tmp_path, state(step), keep=1, also=selected)
        assert [p.name for p in ckpt.available(tmp_path)] == sorted({f"step-{n:08d}" for n in (selected, step)})
    assert ckpt.newest_step(tmp_path) == 5 and ckpt.newest_step(tmp_path / "none") == 0


def test_nothing_there(tmp_path):
    assert ckpt.load_newest(tmp_path / "none") is None


@pytest.mark.parametrize("file", ["model.safetensors", "optimiser.safetensors", "state.json"])
def test_a_damaged_one_is_passed_over(tmp_path, file, capsys):
    for step in (2, 4):
        ckpt.save(tmp_path, state(step), keep=2)
    path = tmp_path / "step-00000004" / file
    path.write_bytes(path.read_bytes()[:-5])
    assert ckpt.load_newest(tmp_path).step == 2
    assert "step-00000004 is damaged" in capsys.readouterr().err


def test_a_full_disk_leaves_the_last_one_intact(tmp_path, monkeypatch):
    ckpt.save(tmp_path, state(2), keep=1)

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(safetensors.torch, "save_file", full)
    with pytest.raises(UserError, match=r"No space left on device; the last complete one is .*step-00000002"):
        ckpt.save(tmp_path, state(4), keep=1)
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000002"]
    assert ckpt.load_newest(tmp_path).step == 2


def test_an_optimiser_survives_the_round_trip():
    def make():
        torch.manual_seed(0)
        model = torch.nn.Linear(3, 2)
        return model, torch.optim.Adam([{"params": [model.weight], "lr": 1e-2}, {"params": [model.bias], "lr": 1e-1}])

    def advance(model, optimiser, seed):
        torch.manual_seed(seed)
        model(torch.randn(4, 3)).square().sum().backward()
        optimiser.step()
        optimiser.zero_grad()

    (a, a_opt), (b, b_opt) = make(), make()
    for seed in range(3):
        advance(a, a_opt, seed)
    b.load_state_dict(a.state_dict())
    ckpt.restore_optimiser(b_opt, ckpt.flatten_optimiser(a_opt))
    for seed in range(3, 6):
        advance(a, a_opt, seed)
        advance(b, b_opt, seed)
    assert torch.equal(a.weight, b.weight) and torch.equal(a.bias, b.bias)
