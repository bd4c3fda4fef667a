"""The loss's coefficients from what training pairs are like, before any training and without labels. Pure.

In: how the (centred) feature correspondences of self, knn and random pairs are distributed, and how often raw features
of such pairs fall into one cluster. Out: weight λ and shift b of each kind.

Published shifts fit one backbone and data set. Where a shift lies below the bulk of its pairs' correspondences nearly
all of them attract, and all codes become equal; where it lies above, nearly all repel. So the rule fixes which share of
a kind's pairs attracts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from stego_dist.losses.distribution import Distribution
from stego_dist.losses.sampling import PAIRS

QUANTILES = {"self": 0.50, "knn": 0.50, "random": 0.95}
"""The share of its correspondences that lies below the shift, hence repels, for each kind of pairs."""
WEIGHTS = {"self": 0.67, "knn": 0.25, "random": 0.63}
"""As published for COCO-Stuff with ViT-S and for Potsdam."""
RULE: dict[str, Any] = {"name": "quantiles", "quantiles": QUANTILES, "weights": WEIGHTS}
"""The rule's name and parameters, for records."""
DIGITS = 4
"""Decimals of a shift: what is printed is what is used."""


@dataclass(frozen=True)
class Observed:
    """What is known of training pairs, by kind."""

    correspondences: Mapping[str, Distribution]
    clusters: int | None = None
    """Number of clusters that is looked for, where it is known."""
    same_cluster: Mapping[str, float] = field(default_factory=dict)
    """Share of the pairs whose raw features k-means with so many clusters puts into one; where it was run."""


@dataclass(frozen=True)
class Coefficients:
    """λ and b of a kind of pairs."""

    weight: float
    shift: float


def choose_coefficients(observed: Observed) -> dict[str, Coefficients]:
    """The rule: each shift is a quantile of its pairs' correspondences, weights are the published ones."""
    return {
        kind: Coefficients(WEIGHTS[kind], round(distribution.quantile(QUANTILES[kind]), DIGITS))
        for kind, distribution in observed.correspondences.items()
    }


def same_cluster_shares(clusters: Tensor, points: int) -> dict[str, float]:
    """Shares of pairs in one cluster, by kind.

    Args:
        clusters: int (N, 1 + R + 1, Q), clusters at Q of the P points of `pair_places`, N anchors.
        points: P. A point with itself is one of P² self pairs, so Q < P points alone would count such pairs too often.
    """
    anchors, drawn = clusters[:, :1, :, None], clusters.shape[2]
    shares = {kind: float((anchors == clusters[:, place, None]).double().mean()) for kind, place in PAIRS.items()}
    others = (shares["self"] * drawn**2 - drawn) / max(1, drawn**2 - drawn)
    return {**shares, "self": others + (1 - others) / points}
