"""PiCIE from a checkpoint in the published layout, against a plain restatement of its forward."""

from __future__ import annotations

import argparse

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from stego_dist.engine.predict import predict_maps
from stego_dist.errors import UserError
from stego_dist.models.picie import Picie


class Published(nn.Module):
    """ResNet-18 of torchvision without its classifier, and the published decoder."""

    def __init__(self):
        super().__init__()
        self.backbone = torchvision.models.resnet18()
        del self.backbone.fc
        self.decoder = nn.Module()
        for n, width in enumerate((512, 256, 128, 64), start=1):
            setattr(self.decoder, f"layer{n}", nn.Conv2d(width, 128, 1))

    def forward(self, x):
        b, d = self.backbone, self.decoder
        x = b.maxpool(b.relu(b.bn1(b.conv1(x))))
        res2 = b.layer1(x)
        res3 = b.layer2(res2)
        res4 = b.layer3(res3)
        out = d.layer1(b.layer4(res4))
        for lateral, level in ((d.layer2, res4), (d.layer3, res3), (d.layer4, res2)):
            y = lateral(level)
            out = F.interpolate(out, size=y.shape[2:], mode="bilinear", align_corners=False) + y
        return out


def checkpoint(path, **more):
    """A file as the published training writes it; the module that it holds, and its classifier."""
    torch.manual_seed(3)
    model = Published().eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 2)
    classifier = nn.Conv2d(128, 5, 1)
    nn.init.zeros_(classifier.bias)
    classifier.weight.data *= torch.linspace(0.5, 2, 5)[:, None, None, None]  # centroids of different lengths
    content = {
        "epoch": 10,
        "args": argparse.Namespace(arch="resnet18", K_train=5),
        "state_dict": {f"module.{key}": value for key, value in model.state_dict().items()},
        "classifier1_state_dict": {f"module.{key}": value for key, value in classifier.state_dict().items()},
        "optimizer": {"state": {}, "param_groups": []},
    }
    torch.save({**content, **more}, path)
    return model, classifier


@torch.no_grad()
def test_features_and_clusters_are_the_published_ones(tmp_path):
    model, classifier = checkpoint(tmp_path / "picie.pth.tar")
    picie = Picie(tmp_path / "picie.pth.tar")
    images = torch.randint(0, 256, (2, 3, 64, 96), dtype=torch.uint8)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    feats = model((images / 255 - mean[:, None, None]) / std[:, None, None])
    wanted = F.normalize(feats, dim=1)
    found = picie(images)
    assert found.shape == (2, picie.dim, 16, 24) and picie.stride == 4
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    scores = F.interpolate(classifier(wanted), (64, 96), mode="bilinear", align_corners=False)
    segmenter = picie.segmenter(5, None)
    maps = predict_maps(segmenter, segmenter.head(found), (64, 96), ("learned",))
    assert (maps.argmax("learned") == scores.argmax(1)).float().mean() > 0.999
    by_direction = torch.einsum("bchw,kc->bkhw", wanted, F.normalize(classifier.weight.flatten(1), dim=1))
    assert (by_direction.argmax(1) != classifier(wanted).argmax(1)).any()  # lengths matter, and are kept


def test_what_is_no_such_checkpoint_is_named(tmp_path):
    path = tmp_path / "picie.pth.tar"
    model, _ = checkpoint(path, state_dict={"module.backbone.conv1.weight": torch.zeros(64, 3, 7, 7)})
    with pytest.raises(UserError, match=r"picie: .* does not fit the model: missing backbone\.bn1\.bias"):
        Picie(path)
    checkpoint(path, classifier1_state_dict={"module.weight": torch.zeros(5, 128, 1, 1), "module.bias": torch.ones(5)})
    with pytest.raises(UserError, match="classifier1 has a bias"):
        Picie(path)
    torch.save(model.state_dict(), path)
    assert Picie(path).centroids is None  # the state dict alone
    torch.save({"state_dict": model}, path)
    with pytest.raises(UserError, match=r"holds a pickled .*test_picie\.Published"):
        Picie(path)
    with pytest.raises(UserError, match="does not exist"):
        Picie(tmp_path / "nowhere")
