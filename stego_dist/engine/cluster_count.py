"""How many clusters? As many as the codes have modes, without labels.

Codes gather in modes. As long as there are no more clusters than modes, each cluster is a mode or several, and stands
apart from the next; from there on k-means can only cut modes, and the margin falls. So the margin of k-means is
measured for a row of numbers, and the largest is taken that keeps MARGIN of the best: M clear modes give M to about
1.4·M. Rather too many than too few: two clusters of one class become one by a name, but what a cluster mixes can't be
told apart afterwards.

Beside it, for people: the label-free score of each number (metrics/label_free.py), and its agreement alone.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from stego_dist import console
from stego_dist.config import Config
from stego_dist.engine.clusters import MODES
from stego_dist.engine.label_free import LabelFree
from stego_dist.knn.kmeans import margin, spherical_kmeans
from stego_dist.models.segmenter import Segmenter

COUNTS = (*range(2, 17), 18, 20, 22, 24, 27, 30, 35, 40, 50, 60)
"""Numbers that are tried, ascending."""
MARGIN = MODES
"""Part of the best margin that a number of clusters keeps. Chosen by the curves of drawn landscapes of eight classes
and of CamVid's eleven: it takes 9, 9, 9 and 12, 14, 13 (three seeds each)."""
GONE = 0.4
"""Part of it below which larger numbers are not tried."""
POINTS, RESTARTS, ITERATIONS = 40_000, 4, 40
"""Of k-means, for each number."""
PER_CLUSTER = 40
"""Points that a cluster has at least, on average."""


@dataclass(frozen=True)
class Tried:
    """A number of clusters."""

    count: int
    margin: float
    """Of k-means over codes: by how much the nearest centre's cosine exceeds the next one's, on average."""
    score: float
    """The label-free score."""
    error: float
    """Its standard error."""
    agreement: float
    """Share of places that are in the same cluster in an enlarged view."""


@dataclass(frozen=True)
class CountChoice:
    """The numbers that were tried, ascending, and the one that was chosen."""

    tried: list[Tried]
    chosen: int

    def record(self) -> dict[str, Any]:
        """For files."""
        return {
            "chosen": self.chosen,
            "rule": f"the largest number whose margin is at least {MARGIN:g} of the best",
            "tried": [asdict(each) for each in self.tried],
        }


def choose_count(config: Config, segmenter: Segmenter, codes: NDArray[np.float32], score: LabelFree) -> CountChoice:
    """Try numbers of clusters on codes (P, D) of a trained segmenter. All ranks call it."""
    rng = np.random.default_rng(config.seed)
    some = codes if len(codes) <= POINTS else codes[np.sort(rng.choice(len(codes), POINTS, replace=False))]
    counts = [count for count in COUNTS if count == 2 or count * PER_CLUSTER <= len(some)]
    tried: list[Tried] = []
    with console.progress("numbers of clusters", len(counts), "numbers") as bar:
        for count in counts:
            centres = spherical_kmeans(some, count, restarts=RESTARTS, iterations=ITERATIONS, seed=config.seed)
            found = score.of_centres(segmenter, torch.from_numpy(centres).to(score.accelerator.device))
            numbers = (found["val/label_free"], found["val/label_free_error"], found["val/agreement"])
            tried.append(Tried(count, margin(some, centres), *numbers))
            bar.advance(clusters=count, margin=tried[-1].margin)
            if tried[-1].margin < GONE * max(each.margin for each in tried):
                break
    return CountChoice(tried, by_margin(tried))


def by_margin(tried: list[Tried]) -> int:
    """The rule."""
    enough = MARGIN * max(each.margin for each in tried)
    return max(each.count for each in tried if each.margin >= enough)
