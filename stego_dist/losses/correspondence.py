"""The correspondence loss: distil feature correspondences into code correlations (paper §3.2, eq. 1–4).

Shapes: G groups, N images a group, C feature and D code channels, H W grid, S points a side, P = S² points,
R draws of negatives. Means (spatial centring, the loss) are taken inside each group, then over groups: one
group is the published single-process behaviour.
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


def sample(maps: Tensor, points: Tensor) -> Tensor:
    """Bilinear samples of maps (B, C, H, W) at points (B, S, S, 2): (B, P, C).

    Border padding, align_corners=True; the grid of points is transposed first, as in the published code.
    """
    sampled = F.grid_sample(maps, points.transpose(1, 2), mode="bilinear", padding_mode="border", align_corners=True)
    return sampled.flatten(2).transpose(1, 2)


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
    feats_knn: Tensor,
    code: Tensor,
    code_knn: Tensor,
    points: Tensor,
    points_other: Tensor,
    negatives: Tensor,
    weights: tuple[float, float, float],
    shifts: tuple[float, float, float],
    centring: bool = True,
    clamp: Clamp = "zero",
) -> CorrespondenceLoss:
    """The whole loss (eq. 4). float32 expected; only codes carry gradients.

    Args:
        feats, feats_knn: features of anchors and of their neighbours, (G·N, C, H, W).
        code, code_knn: their codes, (G·N, D, H, W).
        points, points_other: (G, N, S, S, 2); neighbours and negatives are sampled at points_other.
        negatives: int64 (G, R, N), places in the group; negative r of anchor n is sampled at n's points.
        weights, shifts: λ and b of self, knn and random pairs.
    """
    groups, draws, size = negatives.shape
    side = points.shape[2]
    others = (negatives + size * torch.arange(groups, device=negatives.device).view(-1, 1, 1)).flatten()

    def at(maps: Tensor, where: Tensor) -> Tensor:
        sampled = sample(maps, where.reshape(-1, side, side, 2))
        return sampled.reshape(groups, size, 1, side * side, -1)

    def at_negatives(maps: Tensor) -> Tensor:
        where = points_other.unsqueeze(1).expand(groups, draws, size, side, side, 2)
        sampled = sample(maps[others], where.reshape(-1, side, side, 2))
        return sampled.reshape(groups, draws, size, side * side, -1).transpose(1, 2)

    with torch.no_grad():
        f_anchor, f_knn, f_random = at(feats, points), at(feats_knn, points_other), at_negatives(feats)
        fds = [correlation(f_anchor, other) for other in (f_anchor, f_knn, f_random)]
    c_anchor, c_knn, c_random = at(code, points), at(code_knn, points_other), at_negatives(code)
    cds = [correlation(c_anchor, other) for other in (c_anchor, c_knn, c_random)]

    own, knn, random = (
        pair_term(fd, cd, shift=shift, centring=centring, clamp=clamp) for fd, cd, shift in zip(fds, cds, shifts)
    )
    total = weights[0] * own.loss + weights[1] * knn.loss + weights[2] * random.loss
    return CorrespondenceLoss(own, knn, random, total)
