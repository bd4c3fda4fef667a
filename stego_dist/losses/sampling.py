"""Bilinear samples of dense maps, taken as weighted sums of rows of a table.

A map (C, H, W) is kept as H·W rows of C numbers, maps of several images below each other. A sample is four rows with
weights, so that samples of any image in any order are one gather: nothing is copied for an image that is sampled
more than once, and the gradient goes back by the same rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

PAIRS = {"self": slice(0, 1), "knn": slice(-1, None), "random": slice(1, -1)}
"""Where each kind of pairs lies among what an anchor is compared with (`pair_places`)."""


@dataclass(frozen=True)
class Places:
    """Where samples lie: four rows each, and what they count."""

    rows: Tensor
    """int64 (…, 4)"""
    weights: Tensor
    """float32 (…, 4), with the sum 1"""

    def __getitem__(self, index: object) -> Places:
        """Some of them, by an index of the leading dimensions."""
        return Places(self.rows[index], self.weights[index])  # type: ignore[index]


def places_at(points: Tensor, grid: tuple[int, int]) -> Places:
    """Places (…, P) in one map for points (…, S, S, 2), (x, y) in [−1, 1].

    Border padding, align_corners=True; the grid of points is transposed first, as in the published code.
    """
    height, width = grid
    flat = points.transpose(-3, -2).flatten(-3, -2)
    x = ((flat[..., 0] + 1) / 2 * (width - 1)).clamp(0, width - 1)
    y = ((flat[..., 1] + 1) / 2 * (height - 1)).clamp(0, height - 1)
    left, top = x.floor(), y.floor()
    dx, dy = x - left, y - top
    right, bottom = (left + 1).clamp(max=width - 1), (top + 1).clamp(max=height - 1)
    rows = torch.stack([top * width + left, top * width + right, bottom * width + left, bottom * width + right], -1)
    weights = torch.stack([(1 - dy) * (1 - dx), (1 - dy) * dx, dy * (1 - dx), dy * dx], -1)
    return Places(rows.long(), weights)


def pair_places(points: Tensor, points_other: Tensor, negatives: Tensor, grid: tuple[int, int]) -> Places:
    """Places (G, N, K, P) of all that an anchor is compared with, in a table of G·N anchors, then G·N neighbours.

    Along K = 1 + R + 1: the anchor itself at `points`; the R other images of `negatives` and its neighbour, all at the
    anchor's row of `points_other`.

    Args:
        points, points_other: (G, N, S, S, 2).
        negatives: int64 (G, R, N), places in the group.
    """
    groups, draws, size = negatives.shape
    images = pair_images(negatives)
    own, other = places_at(points, grid), places_at(points_other, grid)
    shape = (groups, size, 1 + draws, *other.rows.shape[2:])
    rows = torch.cat([own.rows.unsqueeze(2), other.rows.unsqueeze(2).expand(shape)], 2)
    weights = torch.cat([own.weights.unsqueeze(2), other.weights.unsqueeze(2).expand(shape)], 2)
    return Places(rows + (images * (grid[0] * grid[1]))[..., None, None], weights)


def pair_images(negatives: Tensor) -> Tensor:
    """Number (G, N, K) of the image that each of `pair_places` is in: anchors are 0…G·N−1, neighbours follow."""
    groups, _, size = negatives.shape
    anchors = torch.arange(groups * size, device=negatives.device).view(groups, size, 1)
    first = size * torch.arange(groups, device=negatives.device).view(groups, 1, 1)
    return torch.cat([anchors, negatives.transpose(1, 2) + first, anchors + groups * size], 2)


def bilinear(table: Tensor, places: Places) -> Tensor:
    """Samples (…, C) of a float32 table (rows, C)."""
    shape = places.rows.shape[:-1]
    sampled = F.embedding_bag(
        places.rows.flatten(0, -2), table, per_sample_weights=places.weights.flatten(0, -2), mode="sum"
    )
    return sampled.view(*shape, table.shape[1])
