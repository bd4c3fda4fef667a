"""The segmentation head: features → code, all 1×1 convolutions (paper §3.3, "segmentation head")."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

Projection = Literal["nonlinear", "linear", "none"]


class Head(nn.Module):
    """code = W1·d₁(f) + W3·ReLU(W2·d₂(f)).

    Args:
        dim: channels of the features.
        code_dim: channels of the code.
        projection: "nonlinear" as published; "linear": W1 only; "none": the code is the features themselves.
    """

    BRANCHES = 2

    def __init__(self, dim: int, code_dim: int, projection: Projection = "nonlinear") -> None:
        super().__init__()
        self.dim = dim
        self.code_dim = dim if projection == "none" else code_dim
        self.projection = projection
        if projection != "none":
            self.linear = nn.Conv2d(dim, code_dim, 1)
        if projection == "nonlinear":
            self.hidden = nn.Conv2d(dim, dim, 1)
            self.out = nn.Conv2d(dim, code_dim, 1)

    def forward(self, feats: Tensor, keep: Sequence[Tensor] | None = None) -> Tensor:
        """Codes (B, code_dim, H, W) of features (B, dim, H, W).

        `keep` holds the Dropout2d masks of the two branches, each (B, dim, 1, 1) and already scaled by
        1/(1−p) (losses/draws.py); None outside of training.
        """
        if self.projection == "none":
            return feats
        first, second = (feats * keep[0], feats * keep[1]) if keep is not None else (feats, feats)
        code: Tensor = self.linear(first)
        if self.projection == "nonlinear":
            code = code + self.out(self.hidden(second).relu())
        return code
