"""How well a score of pairs predicts that both have the same label: precision, recall, average precision.

Thresholds are the distinct scores: pairs of equal score are found together, so their order does not matter.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class PrecisionRecall:
    """The curve from the highest threshold to the lowest; shares in 0…1."""

    precision: NDArray[np.float64]
    """(T,) of the pairs that score at least the threshold, the share that has the same label."""
    recall: NDArray[np.float64]
    """(T,) of the pairs that have the same label, the share that scores at least the threshold; ascends to 1."""

    @property
    def average_precision(self) -> float:
        """Σ (rₜ − rₜ₋₁)·pₜ, without interpolation."""
        return min(1.0, float(np.sum(np.diff(self.recall, prepend=0.0) * self.precision)))

    def thinned(self, points: int) -> PrecisionRecall:
        """At most `points` of the curve: the first that reach evenly spaced recalls, the ends among them."""
        if len(self.recall) <= points:
            return self
        wanted = np.linspace(self.recall[0], 1.0, points)
        kept = np.unique(np.searchsorted(self.recall, wanted).clip(max=len(self.recall) - 1))
        return PrecisionRecall(self.precision[kept], self.recall[kept])


def precision_recall(scores: NDArray[np.floating[Any]], same: NDArray[np.bool_]) -> PrecisionRecall:
    """The curve of scores (N,) of pairs that have the same label or not (N,).

    Raises ValueError where no pair has the same label (recall is undefined) or a score is not a number.
    """
    if not same.any():
        raise ValueError("no pair has the same label")
    if np.isnan(scores).any():
        raise ValueError("a score is not a number")
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    last = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))  # of every run of equal scores
    found = np.cumsum(same[order])[last]
    return PrecisionRecall(found / (last + 1), found / found[-1])
