"""A score of a segmentation without labels, from images that are seen a second time, enlarged.

score = I(A; B)/log K · P(A = B)

A and B are the clusters of a place in an image and in an enlarged view of it. Their mutual information is high for
clusters that are many, evenly used and found again, and 0 when one cluster takes all; alone it favours fragments, which
the share of places that keep their cluster punishes. tests/benchmarks/results/score.md has the scores that were tried.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor


def mutual_information(joint: NDArray[np.int64]) -> float:
    """I(A; B) in nats of the counts (K, L) of pairs; 0 where nothing was counted."""
    total = joint.sum()
    if not total:
        return 0.0
    p = joint / total
    independent = p.sum(1, keepdims=True) * p.sum(0, keepdims=True)
    seen = p > 0
    return max(0.0, float((p[seen] * np.log(p[seen] / independent[seen])).sum()))


def information(joint: NDArray[np.int64]) -> float:
    """I(A; B)/log K of counts (K, K), 0 to 1; 0 for a single cluster."""
    return mutual_information(joint) / math.log(len(joint)) if len(joint) > 1 else 0.0


def middle(code: Tensor, share: float) -> Tensor:
    """Codes (B, C, h, w) of the middle `share` of the sides, enlarged bilinearly to the same grid."""
    scale = torch.tensor([[share, 0.0, 0.0], [0.0, share, 0.0]], device=code.device).expand(len(code), 2, 3)
    grid = F.affine_grid(scale, list(code.shape), align_corners=False)
    return F.grid_sample(code, grid.to(code.dtype), mode="bilinear", padding_mode="border", align_corners=False)


def code_sum(code: Tensor) -> Tensor:
    """What `spread` needs of codes (B, C, H, W), float64 (C + 1,): the sum of unit codes, their number."""
    unit = F.normalize(code.double(), dim=1)
    return torch.cat([unit.sum((0, 2, 3)), unit.new_tensor([unit[:, 0].numel()])])


def spread(summed: Tensor) -> float:
    """1 − the mean cosine of two positions drawn anywhere, of `code_sum`s added up; 0 where there are none."""
    return 1.0 - float((summed[:-1] / summed[-1]).square().sum()) if summed[-1] > 0 else 0.0


def agreement(joint: NDArray[np.int64]) -> float:
    """Share of places in the same cluster in both views, of counts (K, K); 0 where nothing was counted."""
    return float(np.trace(joint) / max(1, joint.sum()))


def label_free_score(joint: NDArray[np.int64]) -> float:
    """The score, 0 to 1, of counts (K, K) of clusters in the two views; higher is better."""
    return information(joint) * agreement(joint)


def jackknife_error(joint: NDArray[np.int64]) -> float:
    """Standard error of the score of counts (F, K, K) of F parts of the images, by the jackknife.

    0 where fewer than two parts hold anything.
    """
    held = [part for part in range(len(joint)) if joint[part].any()]
    if len(held) < 2:
        return 0.0
    without = [label_free_score(joint.sum(0) - joint[part]) for part in held]
    return float(np.sqrt((len(held) - 1) * np.var(without)))
