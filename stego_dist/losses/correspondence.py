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

from stego_dist.losses.sampling import PAIRS

Clamp = Literal["zero", "none", "stabilised"]
EPS = 1e-10


@dataclass(frozen=True)
class Adaptive:
    """A shift that follows the means of correspondences F and code correlations C (EAGLE, Kim et al., CVPR 2024).

    As in its public code: |mean F − mean C − bias| where pairs shall attract, scale · (mean F + mean C − bias) for
    random pairs, and the gradient goes through mean C. The means are of one group (of one draw of negatives), as all
    others in the loss, so there is no state to keep and ranks don't enter.
    """

    attract: bool
    bias: float = 0.0
    scale: float = 3.5

    def __call__(self, fd: Tensor, cd: Tensor) -> Tensor:
        """The shifts (G, 1, R, 1, 1) for centred F and C (G, N, R, P, Q)."""
        f, c = (t.mean((1, 3, 4), keepdim=True) for t in (fd, cd))
        return (f - c - self.bias).abs() if self.attract else self.scale * (f + c - self.bias)


Shift = float | Adaptive


@dataclass(frozen=True)
class PairTerm:
    """One of the three terms: self, knn or random pairs."""

    loss: Tensor
    """Scalar, before its weight."""
    code_mean: Tensor
    """Mean code correlation before the clamp, scalar, detached (published `cd` mean)."""
    above_shift: Tensor
    """Share of correspondences above the shift, scalar, detached."""
    shift: Tensor
    """Mean shift, scalar, detached."""


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


def pair_term(fd: Tensor, cd: Tensor, *, shift: Shift, centring: bool, clamp: Clamp) -> PairTerm:
    """−mean(clamp(C)·(F − b)) of correspondences and code correlations (G, N, R, P, Q) (eq. 2 and 3).

    Each of the R draws is centred by itself, as it would be if it came alone.
    """
    with torch.no_grad():
        fd = centre(fd, (1, 3, 4)) if centring else fd
    b = shift(fd, cd) if isinstance(shift, Adaptive) else fd.new_full((), shift)
    fd = fd - b
    above = (fd.detach() > 0).float().mean()
    return PairTerm(-(clamp_code(cd, clamp) * fd).mean(), cd.detach().mean(), above, b.detach().mean())


def correspondence_loss(
    *,
    feats: Tensor,
    code: Tensor,
    weights: tuple[float, float, float],
    shifts: tuple[Shift, Shift, Shift],
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
        for pairs, shift in zip(PAIRS.values(), shifts)
    )
    total = weights[0] * own.loss + weights[1] * knn.loss + weights[2] * random.loss
    return CorrespondenceLoss(own, knn, random, total)
