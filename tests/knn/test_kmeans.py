"""Spherical k-means against a plain one in numpy."""

from __future__ import annotations

import numpy as np
import pytest

from stego_dist.errors import UserError
from stego_dist.knn.kmeans import assign, density_weights, margin, spherical_kmeans


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def objective(points: np.ndarray, centres: np.ndarray) -> float:
    """Mean cosine of each point to its centre."""
    return float((unit(points.astype(np.float64)) @ unit(centres.astype(np.float64)).T).max(1).mean())


def plain_kmeans(points: np.ndarray, k: int, restarts: int, iterations: int, seed: int) -> np.ndarray:
    rng, points = np.random.default_rng(seed), unit(points.astype(np.float64))
    best = None
    for _ in range(restarts):
        centres = points[rng.choice(len(points), k, replace=False)]
        for _ in range(iterations):
            assigned = (points @ centres.T).argmax(1)
            sums = np.stack([points[assigned == c].sum(0) if (assigned == c).any() else centres[c] for c in range(k)])
            centres = unit(sums)
        if best is None or objective(points, centres) > objective(points, best):
            best = centres
    return best


def blobs(k: int = 5, each: int = 60, dim: int = 12, spread: float = 0.05, seed: int = 0):
    """Points of very different lengths around k orthogonal directions."""
    rng = np.random.default_rng(seed)
    directions = np.linalg.qr(rng.standard_normal((dim, dim)))[0][:k]
    points = np.repeat(directions, each, 0) + spread * rng.standard_normal((k * each, dim))
    lengths = rng.uniform(0.01, 100, (k * each, 1))
    return directions, (points * lengths).astype(np.float32)[rng.permutation(k * each)]


def test_well_separated_directions_are_found_whatever_the_lengths():
    directions, points = blobs()
    centres = spherical_kmeans(points, 5, restarts=10, iterations=20, seed=0)
    assert centres.shape == (5, 12) and centres.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(centres, axis=1), 1, atol=1e-5)
    cosines = directions @ centres.T
    assert sorted(cosines.argmax(1)) == list(range(5)) and cosines.max(1).min() > 0.99


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_objective_is_as_good_as_a_plain_one(seed):
    points = np.random.default_rng(seed).standard_normal((300, 5)).astype(np.float32)
    ours = objective(points, spherical_kmeans(points, 8, restarts=10, iterations=30, seed=seed))
    plain = objective(points, plain_kmeans(points, 8, restarts=10, iterations=30, seed=seed))
    one_start = objective(points, plain_kmeans(points, 8, restarts=1, iterations=1, seed=seed))
    assert ours > plain - 0.01 and ours > one_start + 0.01


def test_centres_are_fixed_points():
    """After enough iterations every centre is the direction of the sum of its points."""
    _, points = blobs(spread=0.2)
    centres = spherical_kmeans(points, 5, restarts=5, iterations=60, seed=1)
    normed = unit(points)
    assigned = (normed @ centres.T).argmax(1)
    again = unit(np.stack([normed[assigned == c].sum(0) for c in range(5)]))
    np.testing.assert_allclose(again, centres, atol=1e-4)


def test_seeds():
    points = np.random.default_rng(0).standard_normal((200, 6)).astype(np.float32)
    arguments = {"restarts": 2, "iterations": 5}
    first = spherical_kmeans(points, 7, seed=4, **arguments)
    np.testing.assert_array_equal(first, spherical_kmeans(points, 7, seed=4, **arguments))
    assert not np.array_equal(first, spherical_kmeans(points, 7, seed=5, **arguments))


def test_the_best_of_the_restarts_is_kept():
    """One start seldom finds 12 directions; the best of many does better."""
    _, points = blobs(k=12, each=10)
    one, many = (
        [objective(points, spherical_kmeans(points, 12, restarts=n, iterations=10, seed=s)) for s in range(5)]
        for n in (1, 20)
    )
    assert np.mean(many) > np.mean(one) + 0.02 and min(many) > max(one) - 1e-6


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_screened_runs_are_as_good(seed):
    directions, points = blobs(k=6, each=500, spread=0.15, seed=seed)
    arguments = {"restarts": 10, "iterations": 25, "seed": seed}
    screened = spherical_kmeans(points, 6, screen=300, **arguments)
    assert sorted((directions @ screened.T).argmax(1)) == list(range(6))
    whole = spherical_kmeans(points, 6, **arguments)
    assert objective(points, screened) == pytest.approx(objective(points, whole), abs=1e-4)
    some = spherical_kmeans(points[::10], 6, **arguments)
    assert objective(points, screened) > objective(points, some)  # it went on over all points
    for enough in (len(points), len(points) - 1):
        np.testing.assert_array_equal(spherical_kmeans(points, 6, screen=enough, **arguments), whole)


def test_weights_are_screened_with_their_points():
    _, points = blobs(k=4, each=400)
    heavy = np.where(np.arange(len(points)) % 2, 100.0, 0.01).astype(np.float32)
    arguments = {"restarts": 5, "iterations": 25, "seed": 0, "screen": 400}
    found = spherical_kmeans(points, 4, weights=heavy, **arguments)
    alone = spherical_kmeans(points[1::2], 4, restarts=5, iterations=25, seed=0)
    np.testing.assert_allclose((found @ alone.T).max(1), 1, atol=1e-4)


def test_codes_that_are_not_finite_are_refused():
    points = np.random.default_rng(0).standard_normal((20, 3)).astype(np.float32)
    points[7, 1] = np.nan
    with pytest.raises(UserError, match="not finite"):
        spherical_kmeans(points, 2, restarts=1, iterations=2, seed=0)


def test_the_points_are_left_alone():
    _, points = blobs()
    before = points.copy()
    spherical_kmeans(points, 5, restarts=1, iterations=2, seed=0)
    np.testing.assert_array_equal(points, before)


def test_too_few_points():
    points = np.eye(4, dtype=np.float32)
    with pytest.raises(UserError, match=r"4 points are fewer than the 5 clusters asked for \(clusters\.count\)"):
        spherical_kmeans(points, 5, restarts=1, iterations=2, seed=0)
    centres = spherical_kmeans(points, 4, restarts=1, iterations=2, seed=0)
    np.testing.assert_allclose(np.sort(centres @ points.T, 1)[:, -1], 1, atol=1e-6)


def test_weights_are_what_a_point_counts():
    rng = np.random.default_rng(0)
    axes = np.repeat(np.eye(3, 5), 40, axis=0)
    points = (axes + 0.2 * rng.normal(size=axes.shape)).astype(np.float32)
    counts = rng.integers(1, 9, len(points))
    weighted = spherical_kmeans(points, 3, restarts=8, iterations=40, seed=0, weights=counts.astype(np.float32))
    expected = unit(
        np.stack([(counts[part, None] * unit(points[part])).sum(0) for part in np.arange(120).reshape(3, 40)])
    )
    plain = spherical_kmeans(points, 3, restarts=8, iterations=40, seed=0)
    assert np.abs(weighted[(weighted @ expected.T).argmax(0)] - expected).max() < 1e-4
    assert np.abs(plain[(plain @ expected.T).argmax(0)] - expected).max() > 1e-3


def test_nearest_centres_and_margin_against_brute_force():
    rng = np.random.default_rng(1)
    points, centres = rng.normal(size=(50, 6)).astype(np.float32), unit(rng.normal(size=(4, 6))).astype(np.float32)
    cosines = np.sort(unit(points) @ centres.T, 1)[:, ::-1]
    nearest, found = assign(points, centres)
    assert (nearest == (unit(points) @ centres.T).argmax(1)).all()
    assert found == pytest.approx(cosines[:, :2], abs=1e-6)
    assert margin(points, centres) == pytest.approx(float((cosines[:, 0] - cosines[:, 1]).mean()), abs=1e-6)
    assert margin(points, centres[:1]) == 0.0


def test_points_in_dense_cells_count_less():
    rng = np.random.default_rng(2)
    points = (np.repeat(np.eye(4, 6), [400, 100, 25, 25], axis=0) + 0.01 * rng.normal(size=(550, 6))).astype(np.float32)
    weights = density_weights(points, 8, 1.0, iterations=30, seed=3)
    assert weights.mean() == pytest.approx(1.0, abs=1e-5)
    cell, _ = assign(points, spherical_kmeans(points, 8, restarts=1, iterations=30, seed=3))
    masses = np.bincount(cell, weights)
    assert masses == pytest.approx(masses.mean(), rel=1e-4), "every cell weighs the same"
    half = density_weights(points, 8, 0.5, iterations=30, seed=3)
    assert np.square(half / half[0]) == pytest.approx(weights / weights[0], rel=1e-4)
    assert density_weights(points, 4, 0.0, iterations=5, seed=3) == pytest.approx(1.0)
