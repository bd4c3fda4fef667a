"""Positional embeddings as matrix products against the kernels that they stand for."""

from __future__ import annotations

import pytest
import torch
from timm.layers import resample_abs_pos_embed
from timm.models.eva import Eva

from stego_dist.export.module import Portable
from stego_dist.export.positions import dino_table, timm_table
from stego_dist.inference.model import Scorer
from stego_dist.inference.names import default_names
from stego_dist.models.backbone import Backbone, dino_position_table
from stego_dist.models.segmenter import Segmenter

GRIDS = [(1, 1), (14, 14), (7, 5), (2, 40), (28, 37), (60, 3)]


@pytest.mark.parametrize("trained", [(14, 14), (4, 4), (7, 5)])
@pytest.mark.parametrize("wanted", GRIDS)
def test_both_ways_of_resizing(trained, wanted):
    table = torch.randn(1, trained[0] * trained[1], 8, generator=torch.Generator().manual_seed(0))
    published = dino_position_table(table, trained, wanted)
    torch.testing.assert_close(dino_table(table, trained, wanted), published, rtol=0, atol=2e-5)
    timm = resample_abs_pos_embed(table, list(wanted), list(trained), num_prefix_tokens=0)
    torch.testing.assert_close(timm_table(table, trained, wanted), timm, rtol=0, atol=2e-5)


def test_the_trained_grid_is_left_as_it_is():
    table = torch.randn(1, 20, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(dino_table(table, (4, 5), (4, 5)), table)
    assert not torch.equal(dino_table(table, (4, 5), (4, 6))[:, :5], table[:, :5])


def test_rotary_embeddings_of_dinov3():
    options = {"depth": 1, "embed_dim": 48, "num_heads": 2}
    backbone = Backbone("vit_small_patch16_dinov3.lvd1689m", weights="random", options=options)
    assert isinstance(backbone.model, Eva)
    segmenter = Segmenter(dim=48, code_dim=6, projection="nonlinear", num_clusters=4, num_classes=None)
    copied = Portable(Scorer(backbone, segmenter, "learned", flip=False), default_names(4)).scorer.backbone.model
    for grid in GRIDS:
        torch.testing.assert_close(copied.rope.get_embed(grid), backbone.model.rope.get_embed(grid), rtol=0, atol=1e-5)
