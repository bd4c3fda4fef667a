"""What is read out of frozen codes: a linear classifier and cosine clusters (paper §3.3, appendix).

Both see detached codes: nothing they learn reaches the head.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LinearProbe(nn.Module):
    """A 1×1 convolution from codes (B, C, H, W) to class logits (B, K, H, W)."""

    def __init__(self, code_dim: int, num_classes: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(code_dim, num_classes, 1)

    def forward(self, code: Tensor) -> Tensor:
        """Logits (B, K, H, W) of detached codes (B, C, H, W)."""
        logits: Tensor = self.conv(code.detach())
        return logits


class ClusterProbe(nn.Module):
    """K learned centres (K, C) in code space, compared by cosine."""

    def __init__(self, code_dim: int, num_clusters: int) -> None:
        super().__init__()
        self.centres = nn.Parameter(torch.randn(num_clusters, code_dim))

    def forward(self, code: Tensor) -> Tensor:
        """Cosines (B, K, H, W) of detached codes (B, C, H, W) with the centres."""
        return cosine_to(code.detach(), self.centres)


def cosine_to(code: Tensor, centres: Tensor) -> Tensor:
    """Cosines (B, K, H, W) of codes (B, C, H, W) with centres (K, C)."""
    return torch.einsum("bchw,kc->bkhw", F.normalize(code, dim=1), F.normalize(centres, dim=1))


def cluster_loss(cosines: Tensor, alpha: float | None = None) -> Tensor:
    """−mean over positions of Σ_k p_k·cos_k; p is the winner (alpha None, as trained) or softmax(alpha·cos).

    cosines: (B, K, H, W). Published: ClusterLookup.
    """
    return -(cluster_assignment(cosines, alpha) * cosines).sum(1).mean()


def cluster_assignment(cosines: Tensor, alpha: float | None = None) -> Tensor:
    """One-hot of the winning centre, or softmax(alpha·cos), (B, K, H, W)."""
    if alpha is not None:
        return (alpha * cosines).softmax(1)
    return F.one_hot(cosines.argmax(1), cosines.shape[1]).movedim(-1, 1).to(cosines.dtype)


def linear_loss_sum(logits: Tensor, labels: Tensor, stride: int = 1) -> tuple[Tensor, Tensor]:
    """Sum of the cross-entropy over labelled pixels, and their number.

    logits: (B, K, h, w), resized bilinearly (align_corners=False) to the labels' grid; labels: integers
    (B, H, W), below 0 ignored. With stride n the loss takes every n-th pixel of each axis from its middle on; the
    resized logits are computed there only, at exactly the values that the full map has there.
    """
    height, width = labels.shape[1:]
    start = stride // 2
    rows = resize_matrix(logits.shape[2], height, logits)[start::stride]
    columns = resize_matrix(logits.shape[3], width, logits)[start::stride]
    picked = labels[:, start::stride, start::stride].long()
    resized = torch.einsum("bkhw,vw,uh->bkuv", logits, columns, rows)
    loss = F.cross_entropy(resized, picked.clamp(min=-1), ignore_index=-1, reduction="sum")
    return loss, (picked >= 0).sum()


def resize_matrix(size: int, wanted: int, like: Tensor) -> Tensor:
    """The (wanted, size) matrix of bilinear resizing along one axis, align_corners=False, no antialias."""
    eye = torch.eye(size, dtype=like.dtype, device=like.device).unsqueeze(0)
    return F.interpolate(eye, size=wanted, mode="linear", align_corners=False)[0].T
