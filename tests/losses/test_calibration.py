"""The rule against quantiles over all values, and shares of pairs in one cluster against counting them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from stego_dist.losses.calibration import QUANTILES, WEIGHTS, Observed, choose_coefficients, same_cluster_shares
from stego_dist.losses.distribution import Distribution
from stego_dist.losses.sampling import PAIRS


def test_the_shift_is_the_quantile_of_all_values():
    rng = np.random.default_rng(1)
    values = {kind: rng.normal(0.2 + 0.1 * n, 0.05 + 0.05 * n, 20_000) for n, kind in enumerate(PAIRS)}
    distributions = {kind: Distribution() for kind in PAIRS}
    for kind, distribution in distributions.items():
        distribution.add(torch.from_numpy(values[kind]))
    chosen = choose_coefficients(Observed(distributions, 8, dict.fromkeys(PAIRS, 0.2)))
    assert set(chosen) == {"self", "knn", "random"}
    for kind, found in chosen.items():
        assert found.shift == pytest.approx(np.quantile(values[kind], QUANTILES[kind]), abs=2e-4)
        assert found.shift == round(found.shift, 4) and found.weight == WEIGHTS[kind]


def test_shares_are_those_of_counted_pairs():
    rng = np.random.default_rng(2)
    anchors, negatives, points = 5, 2, 7
    clusters = rng.integers(0, 3, (anchors, 2 + negatives, points))
    wanted = {"self": [], "knn": [], "random": []}
    for n in range(anchors):
        for k in range(2 + negatives):
            kind = "self" if k == 0 else "knn" if k == 1 + negatives else "random"
            wanted[kind] += [a == b for a in clusters[n, 0] for b in clusters[n, k]]
    found = same_cluster_shares(torch.from_numpy(clusters), points)
    assert found == {kind: pytest.approx(np.mean(same)) for kind, same in wanted.items()}


def test_shares_of_some_of_the_points_estimate_those_of_all():
    """Self pairs of a point with itself would be too many among pairs of fewer points."""
    clusters = torch.randint(0, 10, (4000, 3, 12), generator=torch.Generator().manual_seed(0))
    all_of_them, some = same_cluster_shares(clusters, 12), same_cluster_shares(clusters[:, :, :4], 12)
    assert all_of_them["self"] == pytest.approx(0.1 + 0.9 / 12, abs=5e-3)
    for kind in PAIRS:
        assert some[kind] == pytest.approx(all_of_them[kind], abs=5e-3)
