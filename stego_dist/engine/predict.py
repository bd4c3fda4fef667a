"""Maps of one batch: cluster and class predictions at the size of the labels.

The order of work is the published one up to algebra: a linear probe commutes with bilinear resizing, and the winner of
a cosine does not depend on the code's norm, so K maps are resized instead of the code.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from stego_dist.config import Config
from stego_dist.engine.inputs import training_precision
from stego_dist.models.backbone import Backbone
from stego_dist.models.probes import LinearProbe
from stego_dist.models.segmenter import Segmenter, flip_averaged_code, resize_maps

CLUSTERS = ("kmeans", "learned")
LINEAR = "linear"
CONVERGED = "linear_converged"
SHARPNESS = 2.0
"""Published: the cluster probe's log-probabilities are log softmax(2·cosine)."""

Readouts = Mapping[str, Tensor | LinearProbe]
"""What is read out of codes beside the segmenter's own probes, by name: centres (K, C) of clusters, or a probe."""


@dataclass(frozen=True)
class Maps:
    """Predictions of a batch at size (H, W), by name: "kmeans", "learned", "linear"."""

    code: Tensor
    scores: dict[str, Tensor]
    """float32 (B, K, H, W): class logits, or products of the code with unit centres."""
    clusters: Mapping[str, int]
    """Names of those that are clusters, and how many channels of the code they read."""
    padded: tuple[int, int]
    """Size that the code belongs to, of which (H, W) is the upper left part."""

    def argmax(self, name: str) -> Tensor:
        """Winning cluster or class, int64 (B, H, W)."""
        return self.scores[name].argmax(1)

    def log_probs(self, name: str) -> Tensor:
        """Published log-probabilities (B, K, H, W), the CRF's unary."""
        scores = self.scores[name]
        if name in self.clusters:
            norm = resize_maps(self.code[:, : self.clusters[name]], self.padded).norm(dim=1, keepdim=True)
            scores = SHARPNESS * scores / norm[..., : scores.shape[2], : scores.shape[3]].clamp(min=1e-12)
        return scores.log_softmax(1)


def predict_images(
    config: Config,
    backbone: Backbone,
    segmenter: Segmenter,
    images: Tensor,
    clusters: Sequence[str],
    more: Readouts | None = None,
) -> Maps:
    """Maps of uint8 images (B, 3, H, W) of any size as the section `eval` says, at that size (see `predict_maps`)."""
    padded = pad_to_multiple(images, backbone.stride) if config.eval.crop == "none" else images
    with training_precision(config, images.device):
        code = flip_averaged_code(backbone, segmenter.encode, padded, config.eval.flip)
    size = (images.shape[2], images.shape[3])
    return predict_maps(segmenter, code, size, clusters, more, (padded.shape[2], padded.shape[3]))


def pad_to_multiple(images: Tensor, stride: int) -> Tensor:
    """Images (B, 3, H, W) with their last row and column repeated until both sides are multiples of `stride`."""
    for dim in (2, 3):
        size = images.shape[dim]
        places = torch.arange(size + -size % stride, device=images.device).clamp(max=size - 1)
        images = images.index_select(dim, places)
    return images


@torch.no_grad()
def predict_maps(
    segmenter: Segmenter,
    code: Tensor,
    size: tuple[int, int],
    clusters: Sequence[str],
    more: Readouts | None = None,
    padded: tuple[int, int] | None = None,
) -> Maps:
    """Maps of codes (B, C, h, w) at `size`, of the named clusters, the linear probe if there is one, and `more`.

    padded: the size of the images that the codes are of, where they were padded below and to the right of `size`.
    """
    padded = padded or size
    readouts: dict[str, Tensor | LinearProbe] = {name: segmenter.centres(name) for name in clusters}
    if segmenter.linear is not None:
        readouts[LINEAR] = segmenter.linear
    readouts |= more or {}
    scores: dict[str, Tensor] = {}
    widths: dict[str, int] = {}
    for name, readout in readouts.items():
        if isinstance(readout, LinearProbe):
            small = readout(code[:, : readout.conv.in_channels])
        else:
            widths[name] = readout.shape[1]
            small = torch.einsum("bchw,kc->bkhw", code[:, : widths[name]], F.normalize(readout, dim=1))
        scores[name] = resize_maps(small, padded)[..., : size[0], : size[1]]
    return Maps(code, scores, widths, padded)
