"""Head and probes against golden figures and torch's own operations."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from stego_dist.errors import UserError
from stego_dist.models.backbone import Backbone
from stego_dist.models.head import Head
from stego_dist.models.probes import (
    ClusterProbe,
    LinearProbe,
    cluster_assignment,
    cluster_loss,
    cosine_to,
)
from stego_dist.models.segmenter import Segmenter, averaged_code, resize_maps
from tests.helpers import assert_golden


def test_head_golden(golden):
    case = {k: torch.from_numpy(v) for k, v in golden("head").items()}
    head = Head(32, 12)
    names = {"linear.weight": "linear_w", "linear.bias": "linear_b", "hidden.weight": "hidden_w",
             "hidden.bias": "hidden_b", "out.weight": "out_w", "out.bias": "out_b"}  # fmt: skip
    head.load_state_dict({key: case[name] for key, name in names.items()})
    assert_golden(head(case["feats"]), case["out_code"])


@pytest.mark.parametrize("projection", ["nonlinear", "linear", "none"])
def test_dropout_masks_act_on_the_features_of_each_branch(projection):
    head, feats = Head(6, 4, projection), torch.randn(2, 6, 3, 5)
    keep = (torch.rand(2, 2, 6) < 0.7).float() / 0.7
    rows = feats.flatten(2).transpose(1, 2)
    code = head.rows(rows, keep).transpose(1, 2).unflatten(2, (3, 5))
    first, second = (feats * keep[:, branch, :, None, None] for branch in range(2))
    wanted = feats if projection == "none" else head.linear(first)
    if projection == "nonlinear":
        wanted = wanted + head.out(head.hidden(second).relu())
    torch.testing.assert_close(code, wanted)
    torch.testing.assert_close(head.rows(rows, torch.ones(2, 2, 6)), head.rows(rows))


@pytest.mark.parametrize("projection", ["nonlinear", "linear", "none"])
def test_samples_of_codes_are_codes_sampled(projection):
    """From the features of the four positions around each alone; with the same gradients."""
    head, rows, keep = Head(6, 4, projection), torch.randn(2, 15, 6), torch.rand(2, 2, 6)
    corners = torch.randint(0, 15, (2, 7, 4))
    weights = torch.rand(2, 7, 4).softmax(-1)
    picked = rows[torch.arange(2)[:, None, None], corners]
    sampled = head.samples(picked, weights, keep)
    dense = head.rows(rows, keep)[torch.arange(2)[:, None, None], corners]
    wanted = (dense * weights.unsqueeze(-1)).sum(2)
    torch.testing.assert_close(sampled, wanted)
    if projection != "none":
        for one, other in zip(*(torch.autograd.grad(x.square().sum(), head.parameters()) for x in (sampled, wanted))):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("name", "alpha"), [("None", None), ("2_0", 2.0), ("3_0", 3.0)])
def test_cluster_probe_golden(golden, name, alpha):
    case = {k: torch.from_numpy(v) for k, v in golden("cluster_probe").items()}
    probe = ClusterProbe(8, 5)
    probe.centres.data = case["clusters"].clone()
    code = case["code"].clone().requires_grad_()
    cosines = probe(code)
    loss = cluster_loss(cosines, alpha)
    assert_golden(loss, case[f"out_loss_alpha_{name}"])
    assert_golden(cluster_assignment(cosines, alpha), case[f"out_probs_alpha_{name}"])
    loss.backward()
    assert code.grad is None
    if alpha is None:
        assert_golden(probe.centres.grad, case["out_grad_clusters_alpha_None"])
    if alpha == 2.0:
        assert_golden((cosines * 2).log_softmax(1), case["out_log_probs_alpha_2_0"])


def test_the_linear_probe_commutes_with_resizing():
    probe, code = LinearProbe(6, 3), torch.randn(1, 6, 4, 4)
    torch.testing.assert_close(
        resize_maps(probe(code), (9, 11)), probe(resize_maps(code, (9, 11))), rtol=1e-4, atol=1e-5
    )


def test_probes_do_not_reach_the_head():
    code = torch.randn(1, 6, 4, 4, requires_grad=True)
    (LinearProbe(6, 3)(code).sum() + ClusterProbe(6, 2)(code).sum()).backward()
    assert code.grad is None


def test_cosines_are_cosines():
    code, centres = torch.randn(2, 6, 3, 3), torch.randn(4, 6)
    wanted = F.cosine_similarity(code.unsqueeze(1), centres.view(1, 4, 6, 1, 1), dim=2)
    torch.testing.assert_close(cosine_to(code, centres), wanted)


def test_flip_averaging():
    backbone = Backbone("vit_tiny_patch16_224", weights="random", options={"depth": 1})
    head = Head(192, 5)
    images = torch.randint(0, 256, (2, 3, 32, 48), dtype=torch.uint8)
    straight, mirrored = backbone(images), backbone(images.flip(-1))
    code = averaged_code(head, torch.cat([straight, mirrored]))
    torch.testing.assert_close(code, ((head(straight) + head(mirrored).flip(-1)) / 2).detach(), rtol=1e-4, atol=1e-5)
    swapped = averaged_code(head, torch.cat([mirrored, straight]))
    torch.testing.assert_close(code, swapped.flip(-1), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(code, averaged_code(head, straight, flip=False))


def test_segmenter_round_trip(tmp_path):
    model = Segmenter(dim=6, code_dim=4, projection="nonlinear", num_clusters=5, num_classes=3)
    model.kmeans.normal_()
    model.save(tmp_path / "model.safetensors", step=7)
    again, meta = Segmenter.load(tmp_path / "model.safetensors")
    assert meta == {"step": 7}
    for key, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[key]), key


def test_segmenter_refuses_other_files(tmp_path):
    with pytest.raises(UserError, match="no trained model at"):
        Segmenter.load(tmp_path / "model.safetensors")
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(UserError, match="no segmenter of this project"):
        Segmenter.load(tmp_path / "other.safetensors")
    (tmp_path / "broken.safetensors").write_bytes(b"12345678")
    with pytest.raises(UserError, match="damaged"):
        Segmenter.load(tmp_path / "broken.safetensors")
