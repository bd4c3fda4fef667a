"""From predictions to results: counts of a rank, their sum over ranks, and the scores read off them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from stego_dist.engine.predict import CLUSTERS, LINEAR, Readouts
from stego_dist.metrics.confusion import Matrix, Scores, confusion, scores
from stego_dist.metrics.matching import Matching, match_clusters, match_majority, match_published
from stego_dist.models.probes import LinearProbe
from stego_dist.models.segmenter import Segmenter

CRF = "+crf"
"""End of the name of a measure after the CRF."""
SEED = "#"
"""In the name of clusters that were found again with another seed: "kmeans#1"."""


class Tally:
    """Counts int64 of a rank: predicted id by class, or by nothing where there are no labels."""

    def __init__(
        self, segmenter: Segmenter, num_classes: int | None, device: torch.device, more: Readouts | None = None
    ) -> None:
        self.num_classes, self.device = num_classes, device
        self.rows = dict.fromkeys(CLUSTERS, segmenter.num_clusters)
        probes: dict[str, Tensor | LinearProbe] = {**(more or {})}
        if segmenter.linear is not None:
            probes[LINEAR] = segmenter.linear
        for name, readout in probes.items():
            self.rows[name] = readout.conv.out_channels if isinstance(readout, LinearProbe) else len(readout)
        self.counts: dict[str, Tensor] = {}

    def add(self, name: str, counts: Tensor) -> None:
        """Add counts (rows, columns)."""
        self.counts[name] = self.counts.get(name, torch.zeros_like(counts)) + counts

    def add_map(self, name: str, pred: Tensor, label: Tensor | None) -> None:
        """Count predictions against labels of the same shape, negative where ignored."""
        label = torch.zeros_like(pred) if label is None or not self.num_classes else label
        self.add(name, confusion(pred.to(self.device), label.to(self.device), self._rows(name), self.num_classes or 1))

    def summed(self, accelerator: Accelerator, names: list[str]) -> dict[str, Matrix]:
        """Over all ranks; a rank without images adds zeros."""
        total = {}
        for name in names:
            mine = self.counts.get(name)
            if mine is None:
                mine = torch.zeros(self._rows(name), self.num_classes or 1, dtype=torch.int64, device=self.device)
            total[name] = accelerator.reduce(mine, "sum").cpu().numpy()
        return total

    def _rows(self, name: str) -> int:
        return self.rows[name.removesuffix(CRF)]


def largest_clusters(counts: Mapping[str, Matrix]) -> dict[str, float]:
    """Share of the largest cluster, of each kind."""
    return {
        name: float(matrix.sum(1).max() / max(1, matrix.sum())) for name, matrix in counts.items() if name in CLUSTERS
    }


def shares(counts: Mapping[str, Matrix]) -> dict[str, list[float]]:
    """Share of every cluster, of each kind."""
    return {name: [float(v) for v in matrix[:, 0] / max(1, matrix.sum())] for name, matrix in counts.items()}


def cluster_use(counts: Mapping[str, Matrix], agreements: Mapping[str, float | None]) -> dict[str, dict[str, Any]]:
    """How clusters divide the pixels, of each kind: how many there are and are used, shares, entropy, agreement.

    entropy: of the shares, as a part of the most that so many clusters can have, 1 where all are alike; None for one
    cluster, or where nothing was counted. agreements: of image and mirror image, for the kinds where it is known.
    """
    found = {}
    for name, sizes in shares(counts).items():
        if name.removesuffix(CRF) not in CLUSTERS:
            continue
        used = np.array([share for share in sizes if share > 0])
        entropy = float(-(used * np.log(used)).sum())
        found[name] = {
            "clusters": len(sizes),
            "used": len(used),
            "largest": max(sizes),
            "median": float(np.median(sizes)),
            "smallest": min(sizes),
            "entropy": min(1.0, entropy / math.log(len(sizes))) if len(used) and len(sizes) > 1 else None,
            "agreement": agreements.get(name),
        }
    return found


def score(counts: Mapping[str, Matrix], classes: list[str]) -> tuple[dict[str, Any], dict[str, Matching]]:
    """Results of counts (rows of predictions, classes), and how clusters were matched.

    Clusters found with several seeds are one measure, that of the first seed, and a spread.
    """
    results: dict[str, Any] = {"measures": {}}
    matchings: dict[str, Matching] = {}
    seeds: dict[str, list[dict[str, Any]]] = {}
    for name, matrix in counts.items():
        base, _, seed = name.removesuffix(CRF).partition(SEED)
        if base not in CLUSTERS:
            results["measures"][name] = _entry(scores(matrix), classes, matrix)
            continue
        matched = match_clusters(matrix)
        entry = _entry(scores(matched.matrix), classes, matched.matrix)
        seeds.setdefault(base + CRF * name.endswith(CRF), []).append(entry)
        if seed:
            continue
        matchings[name] = matched
        entry["cluster_to_class"] = list(matched.cluster_to_class)
        if len(matrix) > len(classes):
            entry["published_counting"] = _summary(scores(match_published(matrix).matrix))
            majority = match_majority(matrix)
            entry["majority_matching"] = _summary(scores(majority.matrix))
            entry["majority_matching"]["cluster_to_class"] = list(majority.cluster_to_class)
        results["measures"][name] = entry
    spreads = {name: spread(entries) for name, entries in seeds.items() if len(entries) > 1}
    if spreads:
        results["cluster_seeds"] = spreads
    absent = next(iter(counts.values())).sum(0) == 0
    results["classes_without_pixels"] = [name for name, gone in zip(classes, absent) if gone]
    return results, matchings


def spread(entries: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean and standard deviation (of a sample) of accuracy and mIoU over entries, and the values; without None."""
    found: dict[str, Any] = {"count": len(entries)}
    for key in ("accuracy", "miou"):
        values = [entry[key] for entry in entries if entry[key] is not None]
        found[key] = {
            "mean": float(np.mean(values)) if values else None,
            "std": float(np.std(values, ddof=1)) if len(values) > 1 else None,
            "values": values,
        }
    return found


def spread_over_runs(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """`spread` of every measure that all of these results have, by name."""
    measures = [found.get("measures", {}) for found in results]
    common = [name for name in measures[0] if all(name in others for others in measures)]
    return {name: spread([found[name] for found in measures]) for name in common}


def _entry(result: Scores, classes: list[str], matrix: Matrix) -> dict[str, Any]:
    return {
        **_summary(result),
        "iou": dict(zip(classes, result.iou)),
        "left_out": [name for name, iou in zip(classes, result.iou) if iou is None],
        "confusion": matrix.tolist(),
    }


def _summary(result: Scores) -> dict[str, Any]:
    return {"accuracy": result.accuracy, "miou": result.miou}
