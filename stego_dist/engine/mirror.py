"""Do the clusters of images agree with those of their mirror images? A measure of clusters that needs no label.

Of MIRRORED images spread over the evaluated split; ranks share them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from accelerate import Accelerator

from stego_dist.engine.inputs import training_precision
from stego_dist.engine.per_image import evenly
from stego_dist.engine.seen import EvaluationFeatures
from stego_dist.metrics.confusion import Matrix, confusion
from stego_dist.models.segmenter import Segmenter, codes_of_both

MIRRORED = 64
"""Most images that are looked at."""


@torch.no_grad()
def mirror_counts(
    accelerator: Accelerator, source: EvaluationFeatures, segmenter: Segmenter, clusters: Sequence[str]
) -> dict[str, Matrix]:
    """Positions of codes by their cluster in the image (rows) and in the mirror image, mirrored back: (K, K) each.

    By the name of the clusters. Every rank calls it and gets the sum over all.
    """
    count, device = segmenter.num_clusters, accelerator.device
    joint = {name: torch.zeros(count, count, dtype=torch.int64, device=device) for name in clusters}
    mine = evenly(len(source.samples), MIRRORED)[accelerator.process_index :: accelerator.num_processes]
    for seen in source.batches(mine, mirrored=True):
        with training_precision(source.config, device):
            codes = codes_of_both(segmenter.encode, seen.feats)
        for name, counts in joint.items():
            straight, mirrored = (segmenter.cosines(code, name).argmax(1) for code in codes)
            counts += confusion(straight, mirrored, count, count)
    return {name: accelerator.reduce(counts, "sum").cpu().numpy() for name, counts in joint.items()}


def agreement(joint: Matrix) -> float | None:
    """Share of positions that are in the same cluster in both; None where none was counted."""
    return float(np.trace(joint) / joint.sum()) if joint.any() else None


def stability(joint: Matrix) -> list[float | None]:
    """IoU of each cluster's map with the one of the mirror image; None where it is in neither."""
    union = joint.sum(0) + joint.sum(1) - np.diag(joint)
    return [float(both / of) if of else None for both, of in zip(np.diag(joint), union)]
