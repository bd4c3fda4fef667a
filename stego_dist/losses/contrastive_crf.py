"""The contrastive CRF term: codes should agree where position and colour do (paper appendix; weight 0)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def contrastive_crf(
    *,
    guidance: Tensor,
    code: Tensor,
    positions: Tensor,
    alpha: float = 0.5,
    beta: float = 0.15,
    gamma: float = 0.05,
    w1: float = 10.0,
    w2: float = 3.0,
    shift: float = 0.0,
) -> Tensor:
    """−(code_i·code_j)·(w1·exp(−|Δp|²/2α − |Δg|²/2β) + w2·exp(−|Δp|²/2γ) − shift) for all pairs, (B, n, n).

    Args:
        guidance: normalised images (B, 3, H, W).
        code: normalised codes (B, C, H, W) on the same grid.
        positions: int64 (2, n), rows and columns of the sampled positions.

    The loss is the mean. Distances between positions are in pixels of the map, as published.
    """
    g = guidance[:, :, positions[0], positions[1]]
    c = code[:, :, positions[0], positions[1]]
    p = positions.to(guidance.dtype)
    dp = (p[:, :, None] - p[:, None, :]).square().sum(0)
    dg = (g[:, :, :, None] - g[:, :, None, :]).square().sum(1)
    affinity = w1 * torch.exp(-dp / (2 * alpha) - dg / (2 * beta)) + w2 * torch.exp(-dp / (2 * gamma)) - shift
    return -torch.einsum("bcn,bcm->bnm", c, c) * affinity


def contrastive_crf_loss(*, images: Tensor, code: Tensor, positions: Tensor, side: int = 56) -> Tensor:
    """The term of a batch: images normalised (B, 3, H, W), codes (B, C, h, w), both resized to side×side."""
    size = (side, side)
    guidance = F.interpolate(images, size, mode="bilinear", align_corners=False)
    resized = F.normalize(F.interpolate(code, size, mode="bilinear", align_corners=False), dim=1)
    return contrastive_crf(guidance=guidance, code=resized, positions=positions).mean()
