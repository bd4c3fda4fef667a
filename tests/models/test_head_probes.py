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
    linear_loss_sum,
)
from stego_dist.models.segmenter import Segmenter, flip_averaged_code, resize_maps
from tests.helpers import assert_golden


def test_head_golden(golden):
    case = {k: torch.from_numpy(v) for k, v in golden("head").items()}
    head = Head(32, 12)
    names = {"linear.weight": "linear_w", "linear.bias": "linear_b", "hidden.weight": "hidden_w",
             "hidden.bias": "hidden_b", "out.weight": "out_w", "out.bias": "out_b"}  # fmt: skip
    head.load_state_dict({key: case[name] for key, name in names.items()})
    assert_golden(head(case["feats"]), case["out_code"])


def test_dropout_masks_act_on_each_branch():
    head, feats = Head(6, 4), torch.randn(2, 6, 3, 3)
    ones, zeros = torch.ones(2, 6, 1, 1), torch.zeros(2, 6, 1, 1)
    torch.testing.assert_close(head(feats, [ones, ones]), head(feats))
    linear = Head(6, 4, "linear")
    linear.linear.load_state_dict(head.linear.state_dict())
    constant = head.out(head.hidden(torch.zeros_like(feats)).relu())
    torch.testing.assert_close(head(feats, [ones, zeros]), linear(feats) + constant)
    assert torch.equal(Head(6, 4, "none")(feats), feats)


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


@pytest.mark.parametrize("stride", [1, 2, 5])
def test_linear_loss_equals_cross_entropy_of_resized_logits(stride):
    torch.manual_seed(0)
    logits = torch.randn(2, 4, 5, 6, requires_grad=True)
    labels = torch.randint(-1, 4, (2, 20, 23))
    total, count = linear_loss_sum(logits, labels, stride)
    start = stride // 2
    full = F.interpolate(logits, (20, 23), mode="bilinear", align_corners=False)
    picked = full[:, :, start::stride, start::stride], labels[:, start::stride, start::stride]
    reference = F.cross_entropy(*picked, ignore_index=-1, reduction="sum")
    torch.testing.assert_close(total, reference)
    assert int(count) == int((picked[1] >= 0).sum())
    torch.testing.assert_close(*(torch.autograd.grad(x, logits, retain_graph=True)[0] for x in (total, reference)))


def test_linear_loss_without_labels_is_zero():
    logits = torch.randn(2, 4, 5, 5, requires_grad=True)
    total, count = linear_loss_sum(logits, torch.full((2, 10, 10), -1))
    total.backward()
    assert float(total) == 0 and int(count) == 0 and float(logits.grad.abs().sum()) == 0


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
    code = flip_averaged_code(backbone, head, images)
    mirrored = flip_averaged_code(backbone, head, images.flip(-1))
    torch.testing.assert_close(code, mirrored.flip(-1), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(code, flip_averaged_code(backbone, head, images, flip=False))


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
