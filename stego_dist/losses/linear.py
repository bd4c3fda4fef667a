"""The linear probe's loss: cross-entropy of logits resized to the labels' grid, over labelled pixels.

Both functions return a sum, so that ranks can divide by the number of labelled pixels of the global batch
(`count_labelled`). Over every pixel it is the published loss; over drawn pixels its expectation is the same.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

IGNORED = 255
CHUNK = 1 << 22
"""Resized logits that are in memory at a time: what a CPU's caches hold."""


def count_labelled(labels: Tensor) -> Tensor:
    """Number of labelled pixels of uint8 labels, int64 scalar."""
    return torch.count_nonzero(labels != IGNORED)


def linear_loss_full(logits: Tensor, labels: Tensor) -> Tensor:
    """Sum of the cross-entropy over all labelled pixels.

    logits: (B, K, h, w), resized bilinearly (align_corners=False) to the labels' grid; labels: uint8 (B, H, W), 255
    ignored. Gradients are taken on the way, some images at a time, so that no full-size logits are kept.
    """
    summed: Tensor = _FullResolution.apply(logits, labels)
    return summed


def linear_loss_drawn(logits: Tensor, labels: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """An estimate of `linear_loss_full` from the pixels where drawn rows and columns cross; its mean is the exact sum.

    rows, columns: int64 (B, S), drawn so that every row and every column is expected equally often (losses/draws.py).
    Unlabelled pixels count as 0.
    """
    height, width = labels.shape[1:]
    across = resize_matrix(logits.shape[2], height, logits)[rows]
    along = resize_matrix(logits.shape[3], width, logits)[columns]
    drawn = across.unsqueeze(1) @ logits @ along.transpose(1, 2).unsqueeze(1)
    wanted = labels[torch.arange(len(labels), device=labels.device)[:, None, None], rows[:, :, None], columns[:, None]]
    summed = F.cross_entropy(drawn, wanted.long(), ignore_index=IGNORED, reduction="sum")
    return summed * (height * width / (rows.shape[1] * columns.shape[1]))


def resize_matrix(size: int, wanted: int, like: Tensor) -> Tensor:
    """The (wanted, size) matrix of bilinear resizing along one axis, align_corners=False, no antialias."""
    eye = torch.eye(size, dtype=like.dtype, device=like.device).unsqueeze(0)
    return F.interpolate(eye, size=wanted, mode="linear", align_corners=False)[0].T


class _FullResolution(torch.autograd.Function):
    """See linear_loss_full."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor) -> Tensor:
        height, width = labels.shape[1:]
        rows = resize_matrix(logits.shape[2], height, logits)
        columns = resize_matrix(logits.shape[3], width, logits)
        gradient = torch.empty_like(logits)
        summed = logits.new_zeros(())
        step = max(1, CHUNK // (logits.shape[1] * height * width))
        for at in range(0, len(logits), step):
            some = slice(at, at + step)
            wanted = labels[some].long().unsqueeze(1)
            counts = (wanted != IGNORED).to(logits.dtype)
            wanted = wanted * (wanted != IGNORED)
            resized = (rows @ logits[some]) @ columns.T
            resized -= resized.amax(1, keepdim=True)
            picked = resized.gather(1, wanted)
            total = resized.exp_().sum(1, keepdim=True)
            summed += ((total.log() - picked) * counts).sum()
            resized *= counts / total
            resized.scatter_add_(1, wanted, -counts)
            gradient[some] = rows.T @ (resized @ columns)
        ctx.save_for_backward(gradient)
        return summed

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * scale, None
