"""Counts of maps that are resized bilinearly to the size of the labels, without computing every pixel.

Between four neighbouring positions of the coarse map a resized score is a weighted mean of theirs. So where one
prediction wins at all four, it wins at every pixel of the cell between them, and the cell's label histogram is all that
is needed. Only the pixels of the other cells are computed.

The counts are those of `confusion` on the winners of torch's bilinear resizing (align_corners=False), up to ties that
fall otherwise by float32 rounding.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

TOGETHER = 1 << 19
"""Numbers that the resized scores of cells have that are computed at a time: they stay in a core's cache."""
FEW = 3
"""Rows that are compared where no others can win: most cells between predictions have no more."""


@dataclass(frozen=True)
class LabelCells:
    """Labels of B images, cut at the positions of a coarse map (h, w) that lies over them; cells have r × r pixels."""

    labels: Tensor
    """uint8 (B, h + 1, w + 1, r²): class, or their number C where ignored and outside of the image."""
    histograms: Tensor
    """int64 (B, h + 1, w + 1, C)"""
    weights: Tensor
    """float32 (4, r²) of a cell's corners: upper left, upper right, lower left, lower right."""


def cut_labels(
    labels: Tensor, classes: int, grid: tuple[int, int], size: tuple[int, int] | None = None
) -> LabelCells | None:
    """Cut labels (B, H, W), negative where ignored, below `classes` ≤ 255, for a map (h, w) over images of `size`.

    size: by default (H, W); larger where the images were padded below and to the right. None where the map's positions
    have no whole number of pixels between them.
    """
    (height, width), (h, w) = size or tuple(labels.shape[1:]), grid
    r = height // h
    if r < 1 or (r * h, r * w) != (height, width):
        return None
    if labels.numel() and int(labels.max()) >= classes:
        raise ValueError(f"labels up to {int(labels.max())} don't fit {classes} classes")
    before = (r + 1) // 2
    ids = labels.new_full((len(labels), (h + 1) * r, (w + 1) * r), classes, dtype=torch.uint8)
    inside = torch.where(labels < 0, classes, labels).to(torch.uint8)
    ids[:, before : before + labels.shape[1], before : before + labels.shape[2]] = inside
    cells = ids.view(-1, h + 1, r, w + 1, r).transpose(2, 3).reshape(-1, r * r)
    places = torch.arange(len(cells), device=cells.device)[:, None] * (classes + 1)
    counted = torch.bincount((cells + places).flatten(), minlength=len(cells) * (classes + 1))
    histograms = counted.view(-1, h + 1, w + 1, classes + 1)[..., :classes]
    along = (torch.arange(r, device=labels.device) + (0.0 if r % 2 else 0.5)) / r
    ends = torch.stack([1 - along, along])
    weights = (ends[:, None, :, None] * ends[None, :, None, :]).reshape(4, r * r)
    return LabelCells(cells.view(-1, h + 1, w + 1, r * r), histograms, weights)


def count_resized(scores: Tensor, cells: LabelCells) -> Tensor:
    """Counts int64 (B, K, C) of each image: winning row of scores (B, K, h, w) at a pixel by the pixel's class."""
    images, rows, h, w = scores.shape
    classes = cells.histograms.shape[3]
    padded = F.pad(scores.float(), (1, 1, 1, 1), mode="replicate")
    at = padded.argmax(1)
    ends = [(y, x) for y in (0, 1) for x in (0, 1)]
    corners = [at[:, y : y + h + 1, x : x + w + 1] for y, x in ends]
    alike = (corners[0] == corners[1]) & (corners[0] == corners[2]) & (corners[0] == corners[3])
    number = torch.arange(images, device=scores.device)[:, None, None] * rows
    counts = cells.histograms.new_zeros(images * rows, classes)
    counts.index_add_(0, (corners[0] + number)[alike], cells.histograms[alike])
    by_row = padded.transpose(0, 1)
    i, y, x = alike.logical_not().nonzero().unbind(1)
    four = torch.stack([by_row[:, i, y + dy, x + dx] for dy, dx in ends], 2)  # (K, cells, 4)
    found = counts.new_zeros(images * rows * (classes + 1))
    for cell, held in _by_candidates(four):
        step = max(1, TOGETHER // ((rows if held is None else FEW) * cells.weights.shape[1]))
        for first in range(0, len(cell), step):
            n = cell[first : first + step]
            if held is None:
                winners = _winners(four[:, n] @ cells.weights)
            else:
                these = held[:, first : first + step]
                winners = these.T.gather(1, _winners(four[these, n] @ cells.weights))
            flat = (winners + (i[n] * rows)[:, None]) * (classes + 1) + cells.labels[i[n], y[n], x[n]]
            found += torch.bincount(flat.flatten(), minlength=len(found))
    return (counts + found.view(-1, classes + 1)[:, :classes]).view(images, rows, classes)


def _by_candidates(four: Tensor) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Cells, by number, of corners' scores (K, cells, 4), with the rows (FEW, n) that can win in them; None: any.

    A row whose highest corner lies below another row's lowest corner wins nowhere in the cell.
    """
    if len(four) <= FEW:
        yield torch.arange(four.shape[1], device=four.device), None
        return
    high = four.amax(2)
    candidates = (high >= four.amin(2).amax(0)).sum(0)
    few = (candidates <= FEW).nonzero()[:, 0]
    yield few, high[:, few].topk(FEW, dim=0).indices.sort(0).values  # ascending: the first of equals wins
    yield (candidates > FEW).nonzero()[:, 0], None


def _winners(values: Tensor) -> Tensor:
    """argmax of (K, …) over K, int64 (…), the first of equals; several times as fast as torch's on a CPU."""
    small = torch.uint8 if len(values) < 256 else torch.int16
    best, winner = values[0].clone(), torch.zeros(values.shape[1:], dtype=small, device=values.device)
    for row, value in enumerate(values[1:], 1):
        winner.masked_fill_(value > best, row)
        torch.maximum(best, value, out=best)
    return winner.long()
