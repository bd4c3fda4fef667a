"""The backbone meets the golden ViT, and behaves like a frozen network."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from stego_dist.errors import UserError
from stego_dist.models.backbone import Backbone, descriptors, dino_position_table
from tests.helpers import assert_golden

VIT = dict(patch_size=8, embed_dim=48, depth=3, num_heads=3, img_size=64)


@pytest.fixture
def vit_file(golden, tmp_path):
    path = tmp_path / "dino.pth"
    case = golden("vit")
    torch.save({k.removeprefix("sd/"): torch.from_numpy(v) for k, v in case.items() if k.startswith("sd/")}, path)
    return path


def golden_backbone(path: Path, **kwargs) -> Backbone:
    return Backbone("vit_small_patch8_224", weights=str(path), options=VIT, **kwargs)


def test_golden_square_and_rectangular(golden, vit_file):
    case = golden("vit")
    backbone = golden_backbone(vit_file)
    assert_golden(backbone.extract(torch.from_numpy(case["image"])), case["out_feat"])
    assert_golden(backbone.extract(torch.from_numpy(case["image_rect"])), case["out_feat_rect"])
    assert_golden(backbone.model.forward_features(torch.from_numpy(case["image"]))[:, 0], case["out_cls"])
    keys = golden_backbone(vit_file, feature="keys").extract(torch.from_numpy(case["image"]))
    assert_golden(keys, case["out_keys"])


def test_timm_interpolation_differs_on_another_grid_only(golden, vit_file):
    case = golden("vit")
    timm_way = golden_backbone(vit_file, pos_interp="timm")
    assert_golden(timm_way.extract(torch.from_numpy(case["image"])), case["out_feat"])
    rect = timm_way.extract(torch.from_numpy(case["image_rect"])).numpy()
    assert np.abs(rect - case["out_feat_rect"]).mean() > 1e-3 * np.abs(case["out_feat_rect"]).mean()


def test_position_table_is_untouched_on_the_trained_grid():
    table = torch.randn(1, 16, 5)
    assert dino_position_table(table, (4, 4), (4, 4)) is table
    assert dino_position_table(table, (4, 4), (6, 7)).shape == (1, 42, 5)


@pytest.mark.parametrize("wrapping", ["teacher", "state_dict"])
def test_training_checkpoints_are_unwrapped(vit_file, tmp_path, wrapping):
    state = torch.load(vit_file, weights_only=True)
    prefix = "module.backbone." if wrapping == "teacher" else "module.encoder_q."
    wrapped = {prefix + key: value for key, value in state.items()}
    wrapped["module.head.mlp.0.weight" if wrapping == "teacher" else "module.encoder_q.fc.weight"] = torch.zeros(2, 2)
    torch.save({wrapping: wrapped, "args": argparse.Namespace(lr=1), "epoch": 3}, tmp_path / "ckpt.pth")
    assert golden_backbone(tmp_path / "ckpt.pth").weights_digest() == golden_backbone(vit_file).weights_digest()


def test_a_file_that_does_not_fit_names_its_keys(vit_file, tmp_path):
    state = torch.load(vit_file, weights_only=True)
    del state["norm.bias"]
    state["extra"] = torch.zeros(1)
    state["norm.weight"] = torch.zeros(7)
    save_file(state, tmp_path / "bad.safetensors")
    with pytest.raises(UserError, match=r"missing norm\.bias; unknown extra; shape of norm\.weight is \(7,\)"):
        golden_backbone(tmp_path / "bad.safetensors")


def test_pickles_with_code_are_refused(tmp_path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "module.pth")
    with pytest.raises(UserError, match="can't be read as tensors"):
        golden_backbone(tmp_path / "module.pth")
    with pytest.raises(UserError, match="does not exist"):
        golden_backbone(tmp_path / "nowhere.pth")


def test_no_weights_says_where_they_are_looked_for(tmp_path):
    code = "from stego_dist.models.backbone import Backbone; Backbone('vit_small_patch8_224.dino')"
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert "UserError" in done.stderr
    assert str(tmp_path) in done.stderr and "backbone.weights=FILE" in done.stderr


def test_stays_frozen_and_in_eval_mode():
    backbone = Backbone("vit_tiny_patch16_224", weights="random", options={"img_size": 32, "drop_rate": 0.5})
    backbone.train()
    assert not any(module.training for module in backbone.modules())
    images = torch.randint(0, 256, (2, 3, 32, 48), dtype=torch.uint8)
    first, second = backbone(images), backbone(images)
    assert first.shape == (2, 192, 2, 3) and not first.requires_grad
    assert torch.equal(first, second)


def test_random_weights_are_the_same_everywhere():
    torch.manual_seed(7)
    a = Backbone("vit_tiny_patch16_224", weights="random", options={"depth": 1})
    before = torch.random.get_rng_state()
    b = Backbone("vit_tiny_patch16_224", weights="random", options={"depth": 1})
    assert a.weights_digest() == b.weights_digest()
    assert torch.equal(torch.random.get_rng_state(), before)


def test_uint8_images_are_normalised_by_the_models_own_statistics():
    backbone = Backbone("vit_tiny_patch16_224", weights="random", options={"depth": 1})
    images = torch.randint(0, 256, (1, 3, 224, 224), dtype=torch.uint8)
    mean, std = backbone.model.pretrained_cfg["mean"], backbone.model.pretrained_cfg["std"]
    wanted = (images.double() / 255 - torch.tensor(mean).view(1, 3, 1, 1)) / torch.tensor(std).view(1, 3, 1, 1)
    torch.testing.assert_close(backbone.normalise(images).double(), wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("name", "stride", "channels"), [("resnet50", None, 2048), ("resnet50", 16, 1024),
                                                         ("tf_efficientnet_lite0", 8, 40)])  # fmt: skip
def test_cnn_maps_equal_timms_feature_extractor(name, stride, channels):
    backbone = Backbone(name, weights="random", stride=stride)
    assert (backbone.dim, backbone.stride) == (channels, stride or 32)
    x = torch.randn(1, 3, 64, 96)
    reference = timm.create_model(name, features_only=True).eval()
    reference.load_state_dict(backbone.model.state_dict(), strict=False)
    maps = {64 // f.shape[2]: f for f in reference(x)}
    torch.testing.assert_close(backbone.extract(x), maps[stride or 32])


@pytest.mark.parametrize("name", ["vit_small_patch14_reg4_dinov2.lvd142m", "vit_small_patch16_dinov3.lvd1689m"])
def test_register_tokens_are_dropped(name):
    backbone = Backbone(name, weights="random", options={"depth": 1})
    side = 4 * backbone.stride
    feats = backbone(torch.randint(0, 256, (1, 3, side, side + backbone.stride), dtype=torch.uint8))
    assert feats.shape == (1, backbone.dim, 4, 5)
    keys = Backbone(name, weights="random", options={"depth": 1}, feature="keys")
    assert keys(torch.zeros(1, 3, side, side, dtype=torch.uint8)).shape == (1, backbone.dim, 4, 4)


def test_families_with_positions_of_their_own_are_as_in_timm():
    images = torch.randint(0, 256, (2, 3, 42, 56), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    options = {"img_size": 28, "depth": 1, "embed_dim": 24, "num_heads": 2}
    ours = Backbone("eva02_tiny_patch14_224", weights="random", options=options)
    model = ours.model
    assert model.pos_embed is not None and model.rope is not None
    expected = model.forward_features(ours.normalise(images))[:, model.num_prefix_tokens :]
    torch.testing.assert_close(ours(images), expected.mT.reshape(2, 24, 3, 4))


def test_a_network_of_one_size_refuses_others_with_a_way_out():
    images = torch.zeros(1, 3, 64, 64, dtype=torch.uint8)
    fixed = Backbone("swin_tiny_patch4_window7_224", weights="random")
    with pytest.raises(UserError, match=r"swin_tiny.* does not take images of 64×64 pixels .*img_size: 64"):
        fixed(images)
    made = Backbone("swin_tiny_patch4_window7_224", weights="random", options={"img_size": 64})
    assert made(images).shape == (1, 768, 2, 2)


def test_impossible_requests_are_named():
    with pytest.raises(UserError, match="no model 'vit_huge_nothing'"):
        Backbone("vit_huge_nothing", weights="random")
    with pytest.raises(UserError, match="maps of stride"):
        Backbone("resnet50", weights="random", stride=64)
    with pytest.raises(UserError, match="has no keys"):
        Backbone("resnet50", weights="random", feature="keys")
    backbone = Backbone("vit_tiny_patch16_224", weights="random", options={"depth": 1})
    with pytest.raises(UserError, match="multiple of the patch size .* take 32 or 48"):
        backbone.check_resolution("data.resolution", 40)


def test_descriptor_is_the_normalised_spatial_mean():
    feats = torch.randn(3, 5, 4, 6)
    mean = feats.numpy().mean((2, 3))
    assert_golden(descriptors(feats), mean / np.linalg.norm(mean, axis=1, keepdims=True))


@pytest.mark.parametrize("feature", ["feat", "keys"])
def test_attention_is_fused(feature):
    """No matrix of attention weights is made, with the hook that catches keys neither."""
    backbone = Backbone("vit_tiny_patch16_224", weights="random", feature=feature, options={"depth": 2})
    images = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8)
    with torch.profiler.profile() as profile:
        backbone(images)
    names = {event.key for event in profile.key_averages()}
    assert "aten::scaled_dot_product_attention" in names and "aten::_softmax" not in names
    fused = backbone(images)
    for block in backbone.model.blocks:
        block.attn.fused_attn = False
    torch.testing.assert_close(backbone(images), fused, rtol=1e-4, atol=1e-5)


def test_the_cache_decides_how_many_images_go_at_a_time_and_nothing_else(monkeypatch):
    options = {"img_size": 32, "patch_size": 8, "depth": 2, "embed_dim": 24, "num_heads": 2}
    backbone = Backbone("vit_tiny_patch16_224", weights="random", options=options)
    images = torch.randint(0, 256, (5, 3, 32, 40), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    sizes: list[int] = []
    extract = backbone.extract
    monkeypatch.setattr(backbone, "extract", lambda x: sizes.append(len(x)) or extract(x))
    whole = backbone(images)
    monkeypatch.setattr("stego_dist.models.backbone.CACHED", 2 * 4 * 4 * 24 * 20)  # of two images
    torch.testing.assert_close(backbone(images), whole)
    assert sizes == [5, 2, 2, 1]
