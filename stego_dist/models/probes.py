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
        assert self.conv.bias is not None
        # written out: on codes that lie row by row a convolution's gradient has strides that DDP warns of
        logits = torch.einsum("bchw,kc->bkhw", code.detach(), self.conv.weight.flatten(1))
        return logits + self.conv.bias[:, None, None]


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
    if alpha is None:
        return -cosines.max(1).values.mean()
    return -(cluster_assignment(cosines, alpha) * cosines).sum(1).mean()


def cluster_assignment(cosines: Tensor, alpha: float | None = None) -> Tensor:
    """One-hot of the winning centre, or softmax(alpha·cos), (B, K, H, W)."""
    if alpha is not None:
        return (alpha * cosines).softmax(1)
    return F.one_hot(cosines.argmax(1), cosines.shape[1]).movedim(-1, 1).to(cosines.dtype)
