"""Whether what was written gives what Python gives.

Made-up images of three sizes in two batches go through the file that was written, by its own runtime, and through
`inference.Model`. Scores are compared as numbers. Labels may differ where two classes are as good: what counts is by
how much the class that the file chose is behind the best one in Python's scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stego_dist.errors import UserError
from stego_dist.export.formats import Outputs, Run, Size
from stego_dist.inference.model import Model
from stego_dist.inference.segmentation import Segmentation
from stego_dist.models.segmenter import resize_maps

BATCHES = (1, 2)
"""Images of the batches that are compared."""


@dataclass(frozen=True)
class Case:
    """One batch that both have seen."""

    size: Size
    batch: int
    scores: float
    """Largest absolute difference of a score."""
    labels: float
    """Largest score by which a label's class is behind the best one."""
    differing: float
    """Share of pixels with another label."""

    def record(self) -> dict[str, Any]:
        """For parity.json."""
        return {
            "size": list(self.size), "batch": self.batch, "scores": self.scores, "labels_behind": self.labels,
            "labels_differing": self.differing,
        }  # fmt: skip


def compare(model: Model, run: Run, sizes: Sequence[Size], batches: Sequence[int] = BATCHES) -> list[Case]:
    """`run` against a `model` that sees images as they are (scale native, one window)."""
    cases = []
    for size in sizes:
        images = made_up_images(max(batches), size)
        wanted = list(model.segment([image.permute(1, 2, 0).numpy() for image in images], batch_size=1))
        for batch in batches:
            cases.append(_case(wanted[:batch], run(images[:batch].contiguous()), size))
    return cases


def check(cases: Sequence[Case], tolerance: float) -> None:
    """Raise UserError where something differs by more than the tolerance, or is no number."""
    bad = [case for case in cases if not max(case.scores, case.labels) <= tolerance]
    if bad:
        worst = max(bad, key=lambda case: np.nan_to_num(max(case.scores, case.labels), nan=np.inf))
        raise UserError(
            f"the exported model differs from the Python path by {worst.scores:.2g} in scores (labels: by "
            f"{worst.labels:.2g}) on {worst.batch} image(s) of {worst.size[0]}×{worst.size[1]}, more than --tolerance "
            f"{tolerance:g}, in {len(bad)} of {len(cases)} cases; nothing was written. Take another --format, fixed "
            "--sizes, or accept the difference by a larger --tolerance"
        )


def made_up_images(count: int, size: Size) -> Tensor:
    """Coloured blobs with noise, uint8 (count, 3, H, W); always the same."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(count, 3, 5, 7, generator=generator) * 255
    noise = torch.randn(count, 3, *size, generator=generator) * 12
    return (resize_maps(coarse, size) + noise).clamp(0, 255).to(torch.uint8)


def python_scores(found: Segmentation) -> Tensor:
    """Scores (K, h, w) as exports give them: cosines, or probabilities of a linear probe."""
    return _comparable(found.scores, found.lengths)


def _comparable(scores: Tensor, lengths: Tensor | None) -> Tensor:
    return scores.softmax(0) if lengths is None else scores / lengths.clamp(min=1e-12)


def _case(wanted: Sequence[Segmentation], found: Outputs, size: Size) -> Case:
    labels, scores = found
    reference = torch.stack([python_scores(one) for one in wanted])
    if scores.shape != reference.shape or labels.shape != (len(wanted), *size):
        raise UserError(
            f"the exported model gives scores {tuple(scores.shape)} and labels {tuple(labels.shape)}, expected "
            f"{tuple(reference.shape)} and {(len(wanted), *size)}"
        )
    behind = max(_behind(one, own) for one, own in zip(wanted, labels))
    differing = np.mean([(own.numpy() != one.labels).mean() for one, own in zip(wanted, labels)])
    return Case(size, len(wanted), float((scores - reference).abs().max()), behind, float(differing))


def _behind(wanted: Segmentation, labels: Tensor) -> float:
    """By how much Python's score of the chosen class is behind its best, where that is most."""
    (height, width), stride = wanted.size, round(wanted.size[0] / wanted.extent[0])

    def at_size(maps: Tensor) -> Tensor:
        whole = resize_maps(maps[None], (maps.shape[1] * stride, maps.shape[2] * stride))
        return whole[0, :, :height, :width]

    lengths = None if wanted.lengths is None else at_size(wanted.lengths[None])
    scores = _comparable(at_size(wanted.scores), lengths)
    own = torch.tensor(wanted.names.of_cluster)[:, None, None] == labels
    return float((scores.amax(0) - torch.where(own, scores, -torch.inf).amax(0)).max())
