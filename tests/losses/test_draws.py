"""Draws depend on (seed, step, group) alone and follow the published distributions."""

from __future__ import annotations

import pytest
import torch

from stego_dist.losses.draws import draw_negatives, draw_neighbour_ranks, draw_step, generator

SETTINGS = dict(seed=3, step=5, size=4, points=3, negatives=5, channels=6, dropout=0.1)


def test_a_group_draws_the_same_whoever_draws_it():
    whole = draw_step(groups=range(4), **SETTINGS)
    part = draw_step(groups=range(2, 4), **SETTINGS)
    for name in ("points", "points_other", "negatives", "keep"):
        assert torch.equal(getattr(whole, name)[2:], getattr(part, name)), name
    other_step = draw_step(groups=range(4), **{**SETTINGS, "step": 6})
    assert not torch.equal(whole.points, other_step.points)


def test_global_random_state_is_left_alone():
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    draw_step(groups=range(2), **SETTINGS)
    assert torch.equal(before, torch.random.get_rng_state())


def test_negatives_never_are_the_image_itself():
    rng = generator("test")
    for n in (2, 3, 16):
        for _ in range(50):
            drawn = draw_negatives(n, rng)
            assert (drawn != torch.arange(n)).all() and drawn.min() >= 0 and drawn.max() < n
    with pytest.raises(ValueError, match="at least 2 images"):
        draw_negatives(1, rng)


def test_dropout_masks_keep_the_mean():
    keep = draw_step(groups=range(1), **{**SETTINGS, "channels": 4000}).keep
    assert keep.unique().tolist() == pytest.approx([0.0, 1 / 0.9])
    assert float(keep.mean()) == pytest.approx(1, abs=0.01)


def test_ranks_are_uniform_and_bounded():
    highest = torch.tensor([7, 1, 3, 7] * 500)
    ranks = draw_neighbour_ranks(seed=0, step=0, groups=range(500), size=4, highest=highest)
    assert (ranks >= 1).all() and (ranks <= highest).all()
    counts = torch.bincount(ranks[highest == 7], minlength=8)[1:]
    assert counts.min() > 0.7 * 1000 / 7 and counts.max() < 1.3 * 1000 / 7
