"""How correspondences are distributed: counted in fine bins as they come, whatever their number."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

LOW, HIGH = -3.0, 3.0
"""Where correspondences lie: cosines within 1 of 0, and centring adds the difference of two means."""
BINS = 60_000
WIDTH = (HIGH - LOW) / BINS
"""Resolution of quantiles and shares."""
DIGITS = 6
Counts = NDArray[np.int64]


class Distribution:
    """Finite values from LOW to HIGH, counted in BINS bins; sums of counts don't depend on the order of `add`."""

    def __init__(self) -> None:
        self.counts: Counts = np.zeros(BINS, np.int64)
        self._sum = 0.0

    def add(self, values: Tensor) -> None:
        """Count the values of a tensor of any shape and float type."""
        bins = ((values.flatten().float() - LOW) / WIDTH).long().clamp_(0, BINS - 1)
        self.counts += torch.bincount(bins, minlength=BINS).cpu().numpy()
        self._sum += float(values.sum(dtype=torch.float64))

    @property
    def count(self) -> int:
        """How many values there are."""
        return int(self.counts.sum())

    @property
    def mean(self) -> float:
        """Their mean, exact."""
        return self._sum / self.count

    def quantile(self, share: float) -> float:
        """The value that this share of all lies below; linear inside of a bin."""
        below = np.concatenate([[0], self.counts.cumsum()])
        wanted = share * below[-1]
        last = int(np.flatnonzero(self.counts)[-1])
        place = min(int(np.searchsorted(below, wanted, side="right")) - 1, last)
        inside = (wanted - int(below[place])) / int(self.counts[place])
        return float(LOW + WIDTH * (place + inside))

    def above(self, value: float) -> float:
        """The share of all that is larger; linear inside of a bin."""
        at = min(max((value - LOW) / WIDTH, 0.0), float(BINS))
        place = min(int(at), BINS - 1)
        larger = self.counts[place + 1 :].sum() + (1 - (at - place)) * self.counts[place]
        return float(larger / self.count)


def histograms(distributions: Mapping[str, Distribution], bins: int = 100) -> tuple[list[float], dict[str, list[int]]]:
    """At most `bins` bins over all that was counted: their edges, and the counts of each distribution."""
    used = np.flatnonzero(sum(d.counts for d in distributions.values()))
    first, span = int(used[0]), int(used[-1]) + 1 - int(used[0])
    each = -(-span // bins)
    number = -(-span // each)

    def merged(counts: Counts) -> list[int]:
        part: Any = np.zeros(number * each, np.int64)
        part[:span] = counts[first : first + span]
        return [int(count) for count in part.reshape(number, each).sum(1)]

    edges = LOW + WIDTH * (first + each * np.arange(number + 1))
    return edges.round(DIGITS).tolist(), {name: merged(d.counts) for name, d in distributions.items()}
