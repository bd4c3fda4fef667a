"""Counts in fine bins against numpy over all values."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from stego_dist.losses.distribution import WIDTH, Distribution, histograms


def counted(*parts: np.ndarray) -> Distribution:
    distribution = Distribution()
    for part in parts:
        distribution.add(torch.from_numpy(part))
    return distribution


@pytest.fixture
def values() -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.concatenate([rng.normal(0.4, 0.1, 30_000), rng.uniform(-1.5, 1.7, 10_000)]).astype(np.float32)


def test_quantiles_means_and_shares_are_those_of_all_values(values):
    found = counted(values[:5000].reshape(10, 500), values[5000:])
    assert found.count == len(values) and found.mean == pytest.approx(values.mean(dtype=np.float64))
    for share in (0.0, 0.01, 0.35, 0.5, 0.65, 0.9, 0.99, 1.0):
        wanted = np.quantile(values, share)  # between two values, which may lie apart in the tails
        assert found.quantile(share) == pytest.approx(wanted, abs=5 * WIDTH), share
    for value in (-2.0, -1.0, 0.3, 0.4444, 1.2, 2.0):
        assert found.above(value) == pytest.approx((values > value).mean(), abs=1e-4), value
        if 0 < found.above(value) < 1:
            assert found.quantile(1 - found.above(value)) == pytest.approx(value, abs=5 * WIDTH)


def test_parts_in_any_order_are_the_same_to_the_bit(values):
    parts = np.array_split(values, 7)
    one, other = counted(*parts), counted(*parts[::-1])
    assert np.array_equal(one.counts, other.counts) and one.quantile(0.65) == other.quantile(0.65)


def test_one_value_alone():
    found = counted(np.full(50, 0.3))
    assert found.quantile(0.01) == pytest.approx(0.3, abs=WIDTH) == found.quantile(0.99)
    assert (found.above(0.2), found.above(0.4)) == (1.0, 0.0)


def test_histograms_have_common_edges_and_lose_nothing(values):
    a, b = counted(values), counted(values[:100] / 10)
    edges, counts = histograms({"a": a, "b": b})
    assert len(edges) <= 101 and all(len(c) == len(edges) - 1 for c in counts.values())
    assert sum(counts["a"]) == len(values) and sum(counts["b"]) == 100
    assert edges[0] == pytest.approx(values.min(), abs=WIDTH) and edges[-1] >= values.max()
    wanted = np.histogram(values, np.array(edges))[0]
    assert np.abs(wanted - counts["a"]).max() <= 2  # values on an edge
    narrow = histograms({"c": counted(np.full(9, 0.25))})
    assert narrow[1] == {"c": [9]} and len(narrow[0]) == 2
