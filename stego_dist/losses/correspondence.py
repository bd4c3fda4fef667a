"""The correspondence loss: distil feature correspondences into code correlations (paper §3.2, eq. 1–4).

Shapes: G groups, N images a group, C feature and D code channels, P = S² points of an image, R draws of
negatives. Means (spatial centring, the loss) are taken inside each group, then over groups: one group is the published
single-process behaviour.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Clamp = Literal["zero", "none", "stabilised"]
EPS = 1e-10


@dataclass(frozen=True)
class PairTerm:
    """One of the three terms: self, knn or random pairs."""

    loss: Tensor
    """Scalar, before its weight."""
    code_mean: Tensor
    """Mean code correlation before the clamp, scalar, detached (published `cd` mean)."""
    above_shift: Tensor
    """Share of correspondences above the shift, scalar, detached."""


@dataclass(frozen=True)
class CorrespondenceLoss:
    """The three terms and their weighted sum."""

    self_pair: PairTerm
    knn_pair: PairTerm
    random_pair: PairTerm
    total: Tensor


def correlation(a: Tensor, b: Tensor) -> Tensor:
    """Cosines of points: a (…, P, C) with b (…, Q, C): (…, P, Q); norms are at least 1e-10."""
    return F.normalize(a, dim=-1, eps=EPS) @ F.normalize(b, dim=-1, eps=EPS).transpose(-1, -2)


def centre(fd: Tensor, mean_dims: tuple[int, ...]) -> Tensor:
    """Spatial centring of correspondences (…, P, Q): subtract the mean over Q, keep the mean over `mean_dims`."""
    return fd - fd.mean(-1, keepdim=True) + fd.mean(mean_dims, keepdim=True)


def clamp_code(cd: Tensor, clamp: Clamp) -> Tensor:
    """max(C, 0), C, or C clamped to [0, 0.8]."""
    if clamp == "none":
        return cd
    return cd.clamp(0.0, 0.8) if clamp == "stabilised" else cd.clamp(min=0.0)


def pair_term(fd: Tensor, cd: Tensor, *, shift: float, centring: bool, clamp: Clamp) -> PairTerm:
    """−mean(clamp(C)·(F − b)) of correspondences and code correlations (G, N, R, P, Q) (eq. 2 and 3).

    Each of the R draws is centred by itself, as it would be if it came alone.
    """
    with torch.no_grad():
        fd = (centre(fd, (1, 3, 4)) if centring else fd) - shift
        above = (fd > 0).float().mean()
    return PairTerm(-(clamp_code(cd, clamp) * fd).mean(), cd.detach().mean(), above)


def correspondence_loss(
    *,
    feats: Tensor,
    code: Tensor,
    weights: tuple[float, float, float],
    shifts: tuple[float, float, float],
    centring: bool = True,
    clamp: Clamp = "zero",
) -> CorrespondenceLoss:
    """The whole loss (eq. 4). float32 expected; only codes carry gradients.

    Args:
        feats: features (G, N, 1 + R + 1, P, C) sampled at `pair_places` (losses/sampling.py): of the anchor, of the R
            random others, and of its neighbour.
        code: codes (G, N, 1 + R + 1, P, D) at the same places.
        weights, shifts: λ and b of self, knn and random pairs.
    """
    with torch.no_grad():
        fd = correlation(feats[:, :, :1], feats)
    cd = correlation(code[:, :, :1], code)
    own, knn, random = (
        pair_term(fd[:, :, pairs], cd[:, :, pairs], shift=shift, centring=centring, clamp=clamp)
        for pairs, shift in zip((slice(0, 1), slice(-1, None), slice(1, -1)), shifts)
    )
    total = weights[0] * own.loss + weights[1] * knn.loss + weights[2] * random.loss
    return CorrespondenceLoss(own, knn, random, total)
