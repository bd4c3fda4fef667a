"""Features reduced to the width of a code without training: what a trained head must beat (Koenig et al., 2023).

Both reductions are linear, so a head holds them: code = W·f + b.
"""

from __future__ import annotations

import torch
from accelerate import Accelerator
from torch import Tensor

from stego_dist.engine.clusters import CHUNK
from stego_dist.engine.frozen import FrozenFeatures
from stego_dist.losses.draws import generator
from stego_dist.models.head import Head


@torch.no_grad()
def fit_pca(head: Head, accelerator: Accelerator, frozen: FrozenFeatures) -> None:
    """Make a linear head the projection of centred features on their leading principal axes, without whitening.

    Mean and covariance are over all positions of the images, summed in float64 image by image and over ranks: exact up
    to rounding whatever the ranks. All ranks call it.
    """
    count = torch.zeros((), dtype=torch.float64, device=frozen.device)
    first = torch.zeros(head.dim, dtype=torch.float64, device=frozen.device)
    second = torch.zeros(head.dim, head.dim, dtype=torch.float64, device=frozen.device)
    for start in range(0, len(frozen.mine), CHUNK):
        for feats in frozen.features(frozen.mine[start : start + CHUNK]).flatten(2).double():
            count += feats.shape[1]
            first += feats.sum(1)
            second += feats @ feats.T
    count, first, second = (accelerator.reduce(value, "sum") for value in (count, first, second))
    mean = first / count
    covariance = second / count - mean.outer(mean)
    axes = torch.linalg.eigh(covariance).eigenvectors.flip(1)[:, : head.code_dim].T
    _set(head, axes, -(axes @ mean))


@torch.no_grad()
def draw_projection(head: Head, seed: int) -> None:
    """Make a linear head a random projection: Gaussian, entries of variance 1/width, a function of the seed."""
    drawn = torch.randn(head.code_dim, head.dim, generator=generator(seed, "random projection"), dtype=torch.float64)
    _set(head, drawn / head.code_dim**0.5, torch.zeros(head.code_dim))


def _set(head: Head, weight: Tensor, bias: Tensor) -> None:
    assert head.projection == "linear" and head.code_dim <= head.dim and head.linear.bias is not None
    head.linear.weight.copy_(weight[:, :, None, None])
    head.linear.bias.copy_(bias)
