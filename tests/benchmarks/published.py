"""The training step as the published code runs it: the benchmark's yardstick, and a plain reference for tests.

Two float32 backbone forwards with explicit attention, the head on dense maps of anchors and neighbours with autograd,
grid_sample, a Python loop over negatives, the linear probe's loss on logits resized to the labels, three Adams.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stego_dist.engine.step import LossSettings
from stego_dist.losses.draws import Draws
from stego_dist.models.backbone import Backbone
from stego_dist.models.segmenter import Segmenter


def sample(maps: Tensor, points: Tensor) -> Tensor:
    """Samples (N, C, S, S) of maps (N, C, H, W) at points (N, S, S, 2)."""
    return F.grid_sample(maps, points.permute(0, 2, 1, 3), padding_mode="border", align_corners=True)


def correlation(a: Tensor, b: Tensor) -> Tensor:
    """Cosines (N, S, S, S, S) of samples."""
    a, b = F.normalize(a, dim=1, eps=1e-10), F.normalize(b, dim=1, eps=1e-10)
    return torch.einsum("nchw,ncij->nhwij", a, b)


def pair_loss(f1: Tensor, f2: Tensor, c1: Tensor, c2: Tensor, shift: float, settings: LossSettings) -> Tensor:
    """−clamp(C)·(F − b) of every pair of points."""
    with torch.no_grad():
        fd = correlation(f1, f2)
        if settings.centring:
            old = fd.mean()
            fd = fd - fd.mean([3, 4], keepdim=True)
            fd = fd - fd.mean() + old
    cd = correlation(c1, c2)
    if settings.clamp != "none":
        cd = cd.clamp(0, 0.8 if settings.clamp == "stabilised" else None)
    return -cd * (fd - shift)


def correspondence(
    feats: Tensor, feats_knn: Tensor, code: Tensor, code_knn: Tensor, draws: Draws, settings: LossSettings
) -> Tensor:
    """The weighted sum of the three terms, of one group of dense maps (N, C, H, W)."""
    points, other = draws.points[0], draws.points_other[0]
    f, c = sample(feats, points), sample(code, points)
    own = pair_loss(f, f, c, c, settings.shifts[0], settings)
    knn = pair_loss(f, sample(feats_knn, other), c, sample(code_knn, other), settings.shifts[1], settings)
    random = []
    for chosen in draws.negatives[0]:
        f_random, c_random = sample(feats[chosen], other), sample(code[chosen], other)
        random.append(pair_loss(f, f_random, c, c_random, settings.shifts[2], settings))
    terms = own.mean(), knn.mean(), torch.cat(random).mean()
    return sum((weight * term for weight, term in zip(settings.weights, terms)), torch.zeros((), device=code.device))


def head_codes(segmenter: Segmenter, feats: Tensor, keep: Tensor) -> Tensor:
    """Codes of (N, C, H, W) with Dropout2d masks (N, 2, C) multiplied into the features of each branch."""
    head = segmenter.head
    first, second = (feats * keep[:, branch, :, None, None] for branch in range(2))
    code: Tensor = head.linear(first) + head.out(head.hidden(second).relu())
    return code


class PublishedStep(nn.Module):
    """Losses of one group, from features or from images."""

    def __init__(self, segmenter: Segmenter, settings: LossSettings, backbone: Backbone | None = None) -> None:
        super().__init__()
        self.segmenter, self.settings, self.backbone = segmenter, settings, backbone
        self.attention: Tensor | None = None
        if backbone is not None:
            for block in backbone.model.blocks:
                block.attn.fused_attn = False
            backbone.model.blocks[-1].attn.attn_drop.register_forward_hook(self._keep_attention)

    def _keep_attention(self, module: nn.Module, inputs: object, output: Tensor) -> None:
        self.attention = output

    def from_images(self, images: Tensor, images_knn: Tensor, draws: Draws, labels: Tensor) -> Tensor:
        """uint8 images (N, 3, H, W) of anchors and neighbours, each by a forward of its own."""
        assert self.backbone is not None
        return self(self.backbone(images), self.backbone(images_knn), draws, labels)

    def forward(self, feats: Tensor, feats_knn: Tensor, draws: Draws, labels: Tensor) -> Tensor:
        """float32 features (N, C, h, w); uint8 labels (N, H, W), 255 ignored."""
        keep = draws.keep[0]
        code = head_codes(self.segmenter, feats, keep[:, 0])
        code_knn = head_codes(self.segmenter, feats_knn, keep[:, 1])
        dropped = feats * keep[:, 0, 2, :, None, None], feats_knn * keep[:, 1, 2, :, None, None]
        loss = correspondence(*dropped, code, code_knn, draws, self.settings)

        detached = code.detach().clone()
        centres = F.normalize(self.segmenter.cluster.centres, dim=1)
        cosines = torch.einsum("nchw,kc->nkhw", F.normalize(detached, dim=1), centres)
        winners = F.one_hot(cosines.argmax(1), cosines.shape[1]).permute(0, 3, 1, 2).float()
        loss = loss - (winners * cosines).sum(1).mean()

        assert self.segmenter.linear is not None
        logits = self.segmenter.linear.conv(detached)
        logits = F.interpolate(logits, labels.shape[1:], mode="bilinear", align_corners=False)
        logits, wanted = logits.permute(0, 2, 3, 1).reshape(-1, logits.shape[1]), labels.flatten().long()
        labelled = wanted != 255
        return loss + F.cross_entropy(logits[labelled], wanted[labelled])


def three_adams(segmenter: Segmenter) -> list[torch.optim.Optimizer]:
    """An Adam for the head and one for each probe, at the published rates."""
    assert segmenter.linear is not None
    modules = (segmenter.head, 5e-4), (segmenter.cluster, 5e-3), (segmenter.linear, 5e-3)
    return [torch.optim.Adam(module.parameters(), lr) for module, lr in modules]
