"""What a neighbour table looks like: similarities by rank, neighbours of the same source image, hubs.

In: a table's rows in blocks, in order, each crop's own entry first. Out: plain numbers. Memory: 16 bytes a crop and a
sample of 10⁶ rows, whatever the number of crops. Rank 0 is the crop itself and is left out of everything.

Hubs: the k-occurrence of a crop is the number of crops that have it among their neighbours; its skewness measures
hubness, and a crop that nobody has is an anti-hub (Radovanović et al., "Hubs in space", JMLR 2010).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]
Floats = NDArray[np.float32]

SAMPLE = 1_000_000
"""Crops whose similarities enter the quantiles; all of them where there are no more."""
QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
CHUNK = 1 << 20


@dataclass(frozen=True)
class Hubness:
    """How unevenly crops occur as neighbours at ranks 1 to `ranks`."""

    ranks: int
    largest: int
    """Times that the most frequent neighbour occurs."""
    hub: int
    """Id of that crop; the lowest where several occur as often."""
    hub_share: float
    """Share of all crops that have it."""
    skewness: float
    """Third standardised moment of the k-occurrences; 0 when all are equal."""
    anti_hubs: float
    """Share of crops that nobody has as a neighbour."""


@dataclass(frozen=True)
class TableStatistics:
    """Numbers of a table of `crops` rows and k entries each."""

    crops: int
    k: int
    padded: float
    """Share of entries (ranks 1 to k − 1) that are empty."""
    sampled: int
    """Crops that entered the quantiles."""
    similarity: dict[int, list[float] | None]
    """Quantiles (`QUANTILES`) by rank; None where all entries are empty."""
    same_image: float | None
    """Share of neighbours that come from the crop's own source image; None without any neighbour."""
    same_image_by_rank: list[float | None]
    """The same of ranks 1 to k − 1."""
    hubness: Hubness
    """Of all ranks."""
    hubness_of_positives: Hubness
    """Of the ranks that training draws from."""
    lowest: int | None
    """Crop with the lowest mean similarity to its positives; None without any neighbour."""
    median: int | None
    """The sampled crop whose mean similarity is the median."""
    highest: int | None


def shown_ranks(k: int) -> list[int]:
    """The ranks whose similarities are shown."""
    return sorted({r for r in (1, 2, 3, 5, 7, 10, 20, k - 1) if 1 <= r < k})


class TableReader:
    """Takes the rows of a table block by block; `result` gives its statistics."""

    def __init__(self, *, sources: Ids, k: int, positives: int, seed: int = 0, sample: int = SAMPLE) -> None:
        """sources: (N,) source image of every crop; positives: last rank that training draws; k ≥ 2."""
        n = len(sources)
        self.sources, self.k, self.positives = sources, k, min(positives, k - 1)
        self._seen = np.zeros(n, np.int32)
        self._drawn = np.zeros(n, np.int32)  # as _seen, among the positives
        self._filled, self._same = np.zeros(k - 1, np.int64), np.zeros(k - 1, np.int64)
        chosen = np.random.default_rng(seed).choice(n, min(sample, n), replace=False, shuffle=False)
        self._sample = np.sort(chosen).astype(np.int64)
        self._similarities = np.full((len(self._sample), len(shown_ranks(k))), np.nan, np.float32)
        self._means = np.full(len(self._sample), np.nan)
        self._extremes: list[tuple[float, int] | None] = [None, None]

    def add(self, first: int, ids: NDArray[np.int64], similarities: Floats) -> None:
        """Rows of crops first, first + 1, …: ids (n, k) and similarities (n, k), −1 where there is no entry."""
        ids, values = np.asarray(ids)[:, 1:], np.asarray(similarities)[:, 1:]
        filled = ids >= 0
        np.add.at(self._seen, ids[filled], 1)
        near = ids[:, : self.positives]
        np.add.at(self._drawn, near[near >= 0], 1)
        own = self.sources[first : first + len(ids), None]
        self._filled += filled.sum(0)
        self._same += (filled & (self.sources[np.where(filled, ids, 0)] == own)).sum(0)
        means = _means(values[:, : self.positives], near >= 0)
        self._keep_extremes(first, means)
        begin, end = np.searchsorted(self._sample, [first, first + len(ids)])
        rows = self._sample[begin:end] - first
        columns = [rank - 1 for rank in shown_ranks(self.k)]
        self._similarities[begin:end] = np.where(filled, values, np.nan)[rows][:, columns]
        self._means[begin:end] = means[rows]

    def result(self) -> TableStatistics:
        """The statistics, after all rows were added."""
        n, total = len(self.sources), int(self._filled.sum())
        by_rank = [int(same) / int(filled) if filled else None for same, filled in zip(self._same, self._filled)]
        lowest, highest = self._extremes
        return TableStatistics(
            crops=n,
            k=self.k,
            padded=1 - total / (n * (self.k - 1)),
            sampled=len(self._sample),
            similarity={rank: _quantiles(self._similarities[:, i]) for i, rank in enumerate(shown_ranks(self.k))},
            same_image=int(self._same.sum()) / total if total else None,
            same_image_by_rank=by_rank,
            hubness=hubness(self._seen, self.k - 1),
            hubness_of_positives=hubness(self._drawn, self.positives),
            lowest=lowest[1] if lowest else None,
            median=self._median(),
            highest=highest[1] if highest else None,
        )

    def _keep_extremes(self, first: int, means: NDArray[np.float64]) -> None:
        if np.isnan(means).all():
            return
        low, high = int(np.nanargmin(means)), int(np.nanargmax(means))
        lowest, highest = self._extremes
        if lowest is None or means[low] < lowest[0]:
            self._extremes[0] = (float(means[low]), first + low)
        if highest is None or means[high] > highest[0]:
            self._extremes[1] = (float(means[high]), first + high)

    def _median(self) -> int | None:
        known = np.flatnonzero(~np.isnan(self._means))
        if not known.size:
            return None
        order = known[np.argsort(self._means[known], kind="stable")]
        return int(self._sample[order[(len(order) - 1) // 2]])


def hubness(occurrences: NDArray[np.int32], ranks: int) -> Hubness:
    """Hubness of k-occurrences (N,), counted over ranks 1 to `ranks`."""
    n, hub = len(occurrences), int(occurrences.argmax())
    mean = float(occurrences.mean(dtype=np.float64))
    second = third = 0.0
    for start in range(0, n, CHUNK):  # no array of N doubles
        apart = occurrences[start : start + CHUNK].astype(np.float64) - mean
        second += float((apart**2).sum())
        third += float((apart**3).sum())
    return Hubness(
        ranks=ranks,
        largest=int(occurrences[hub]),
        hub=hub,
        hub_share=int(occurrences[hub]) / n,
        skewness=(third / n) / (second / n) ** 1.5 if second else 0.0,
        anti_hubs=1 - int(np.count_nonzero(occurrences)) / n,
    )


def _means(values: Floats, filled: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Mean of the filled entries of each row, (n,), NaN without any."""
    counts = filled.sum(1)
    sums = np.where(filled, values, 0).sum(1, dtype=np.float64)
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)


def _quantiles(values: Floats) -> list[float] | None:
    known = values[~np.isnan(values)]
    return [float(v) for v in np.quantile(known, QUANTILES)] if known.size else None


def crops_to_show(statistics: TableStatistics, *, drawn: int, seed: int) -> list[tuple[str, int]]:
    """What the picture shows: (why, crop), first the outstanding ones, then up to `drawn` others by the seed."""
    s = statistics
    named: Sequence[tuple[str, int | None]] = [
        ("lowest mean similarity", s.lowest),
        ("median mean similarity", s.median),
        ("highest mean similarity", s.highest),
        (f"biggest hub, a neighbour of {s.hubness.largest}", s.hubness.hub),
    ]
    rows = [(why, crop) for why, crop in named if crop is not None]
    shown = {crop for _, crop in rows}
    size = min(drawn + len(shown), s.crops)
    chosen = np.random.default_rng(seed).choice(s.crops, size, replace=False, shuffle=False)
    others = [int(crop) for crop in chosen if crop not in shown][:drawn]
    return rows + [("drawn", crop) for crop in sorted(others)]
