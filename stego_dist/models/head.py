"""The segmentation head: features → code, all 1×1 convolutions (paper §3.3, "segmentation head")."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
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

    def forward(self, feats: Tensor) -> Tensor:
        """Codes (B, code_dim, H, W) of features (B, dim, H, W), without dropout."""
        code = self.rows(feats.flatten(2).transpose(1, 2))
        return code.transpose(1, 2).reshape(feats.shape[0], -1, *feats.shape[2:])

    def rows(self, rows: Tensor, keep: Tensor | None = None) -> Tensor:
        """Codes (B, L, code_dim) of positions (B, L, dim).

        `keep` holds the Dropout2d masks (B, 2, dim) of the two branches, already scaled by 1/(1−p) (losses/draws.py);
        None outside of training. Masks multiply the weights of an image instead of its features: the same products.
        """
        if self.projection == "none":
            return rows
        code = _affine(rows, self.linear, keep if keep is None else keep[:, 0])
        if self.projection == "nonlinear":
            code = code + _affine(self._hidden(rows, keep), self.out)
        return code

    def samples(self, corners: Tensor, weights: Tensor, keep: Tensor) -> Tensor:
        """Bilinear samples (B, P, code_dim) of the codes, from the four positions around each (B, P, 4, dim).

        weights: (B, P, 4), with the sum 1; keep: as for `rows`. Equal to sampling the codes of the whole map, because
        sampling commutes with all but the ReLU, without computing them elsewhere.
        """
        feats = (corners * weights.unsqueeze(-1)).sum(2)
        if self.projection == "none":
            return feats
        code = _affine(feats, self.linear, keep[:, 0])
        if self.projection == "nonlinear":
            hidden = self._hidden(corners.flatten(1, 2), keep).view_as(corners)
            code = code + _affine((hidden * weights.unsqueeze(-1)).sum(2), self.out)
        return code

    def _hidden(self, rows: Tensor, keep: Tensor | None) -> Tensor:
        return _affine(rows, self.hidden, keep if keep is None else keep[:, 1]).relu()


def _affine(rows: Tensor, layer: nn.Conv2d, keep: Tensor | None = None) -> Tensor:
    """A 1×1 convolution of rows (B, L, C), whose input channels are masked by (B, C)."""
    weight = layer.weight.flatten(1)
    assert layer.bias is not None
    if keep is None:
        return F.linear(rows, weight, layer.bias)
    return torch.baddbmm(layer.bias, rows, (weight * keep.unsqueeze(1)).transpose(1, 2))
