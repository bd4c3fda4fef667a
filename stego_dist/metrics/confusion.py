"""Integer confusion matrices and the scores read off them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Matrix = NDArray[np.int64]


def confusion(pred: Tensor, label: Tensor, num_pred: int, num_classes: int) -> Tensor:
    """Counts int64 (num_pred, num_classes) of predicted id by label id; labels below 0 are not counted.

    pred, label: integer tensors of one shape; predictions in 0…num_pred−1, labels below num_classes.
    """
    if not label.numel():
        return torch.zeros(num_pred, num_classes, dtype=torch.int64, device=label.device)
    (low, high), most = map(int, pred.aminmax()), int(label.max())
    if most >= num_classes or high >= num_pred or low < 0:
        raise ValueError(f"predictions {low}…{high} and labels up to {most} don't fit {num_pred} × {num_classes}")
    columns = num_classes + 1  # the first one takes what has no label: faster than picking out the rest
    cells = (pred.long() * columns).add_(label.clamp(min=-1)).add_(1).flatten()
    return torch.bincount(cells, minlength=num_pred * columns).view(num_pred, columns)[:, 1:].contiguous()


@dataclass(frozen=True)
class Scores:
    """Accuracy and IoU of a matrix whose rows 0…C−1 are predictions of classes 0…C−1."""

    accuracy: float | None
    """Share of labelled pixels predicted right; None without labelled pixels."""
    miou: float | None
    """Mean of `iou` over classes that occur; None when none does."""
    iou: tuple[float | None, ...]
    """Per class; None for a class in neither labels nor predictions."""


def scores(matrix: Matrix) -> Scores:
    """Scores of counts (R, C), R ≥ C, rows predictions: rows beyond C are predictions that match no class.

    A class absent from labels and predictions is left out of the mean; one that is predicted but absent counts 0.
    """
    classes = matrix.shape[1]
    right = np.diag(matrix[:classes]).astype(np.float64)
    labelled, predicted = matrix.sum(0), matrix[:classes].sum(1)
    union = labelled + predicted - right
    total = int(matrix.sum())
    iou = tuple(float(r / u) if u > 0 else None for r, u in zip(right, union))
    known = [value for value in iou if value is not None]
    return Scores(
        accuracy=float(right.sum() / total) if total else None,
        miou=float(np.mean(known)) if known else None,
        iou=iou,
    )
