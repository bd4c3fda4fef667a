"""Counts of single images, and which images they say are worth looking at.

`ImageCounts` is filled along with the evaluation; from what it gathers, the best, median and worst images are chosen
where there are labels, and for each cluster the images in which it is largest where there are none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from numpy.typing import NDArray
from torch import Tensor

from stego_dist.metrics.confusion import Matrix, scores

IMAGES = 4096
"""Most images that are counted one by one, evenly spread over the split."""
NUMBERS = 2**25
"""Most numbers that all their matrices may have together (int32)."""
QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
RANKS = ("best", "median", "worst")


def evenly(count: int, wanted: int) -> list[int]:
    """At most `wanted` of 0…count−1, evenly spread."""
    places: list[int] = np.unique(np.linspace(0, count - 1, min(wanted, count)).round().astype(int)).tolist()
    return places


class ImageCounts:
    """Counts int32 (clusters, classes) of single images; (clusters, 1) without labels."""

    def __init__(self, images: int, clusters: int, classes: int | None) -> None:
        self.clusters, self.classes = clusters, classes or 1
        wanted = max(1, min(images, IMAGES, NUMBERS // (clusters * self.classes)))
        self.wanted = set(evenly(images, wanted))
        self.counts: dict[int, NDArray[np.int32]] = {}

    def add(self, ids: Sequence[int], counts: Tensor) -> None:
        """Keep counts (B, clusters, classes) of a batch of images."""
        places = [place for place, i in enumerate(ids) if i in self.wanted]
        matrices = counts[places].to(torch.int32).cpu().numpy()
        self.counts.update(zip((ids[place] for place in places), matrices))

    def gathered(self, accelerator: Accelerator) -> dict[int, NDArray[np.int32]]:
        """Of all ranks, by the image's number, ascending."""
        parts = gather_object([self.counts]) if accelerator.num_processes > 1 else [self.counts]
        joined = {i: matrix for part in parts for i, matrix in part.items()}
        return {i: joined[i] for i in sorted(joined)}


@dataclass(frozen=True)
class ImageScore:
    """What the clusters that were matched over the whole split score on one image; shares in 0…1."""

    id: int
    accuracy: float
    miou: float
    """Mean over the classes that occur in the image, labelled or predicted."""


def image_scores(counts: Mapping[int, NDArray[np.int32]], cluster_to_class: Sequence[int]) -> list[ImageScore]:
    """Scores of all images that have labelled pixels, the best first: by accuracy, then mIoU, then number."""
    found = []
    for i, matrix in counts.items():
        result = scores(as_classes(matrix.astype(np.int64), cluster_to_class))
        if result.accuracy is not None and result.miou is not None:
            found.append(ImageScore(i, result.accuracy, result.miou))
    return sorted(found, key=lambda score: (-score.accuracy, -score.miou, score.id))


def as_classes(matrix: Matrix, cluster_to_class: Sequence[int]) -> Matrix:
    """Counts (K, C) by cluster as counts (C + 1, C) by the cluster's class; the last row: clusters without a class."""
    rows = np.zeros((matrix.shape[1] + 1, matrix.shape[1]), np.int64)
    np.add.at(rows, [c if c >= 0 else matrix.shape[1] for c in cluster_to_class], matrix)
    return rows


def choose(ranked: Sequence[ImageScore], each: int) -> dict[str, list[ImageScore]]:
    """The `each` best, middle and worst of ranked images, fewer where they would meet."""
    each = min(each, len(ranked) // len(RANKS)) or min(1, each)
    middle = max(0, (len(ranked) - each) // 2)
    picks = (ranked[:each], ranked[middle : middle + each], ranked[len(ranked) - each :][::-1])
    chosen: dict[str, list[ImageScore]] = {}
    seen: set[int] = set()
    for rank, part in zip(RANKS, picks):
        chosen[rank] = [score for score in part if score.id not in seen]
        seen |= {score.id for score in part}
    return chosen


def quantiles(ranked: Sequence[ImageScore]) -> dict[str, Any]:
    """QUANTILES of accuracy and mIoU over images."""
    return {
        "quantiles": list(QUANTILES),
        "accuracy": np.quantile([score.accuracy for score in ranked], QUANTILES).tolist(),
        "miou": np.quantile([score.miou for score in ranked], QUANTILES).tolist(),
    }


def largest_in(counts: Mapping[int, NDArray[np.int32]], cluster: int, images: int) -> list[tuple[int, float]]:
    """(number, share of the image) of the images in which a cluster is largest, the largest first; none without it."""
    shares = [(i, int(matrix[cluster].sum()) / max(1, int(matrix.sum()))) for i, matrix in counts.items()]
    return sorted((s for s in shares if s[1] > 0), key=lambda s: (-s[1], s[0]))[:images]
