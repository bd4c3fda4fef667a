"""Spherical k-means by FAISS: the clusters of codes, and of raw features for the baseline."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from stego_dist.errors import UserError

REFINED = 5
"""After screening, a fifth of the iterations is done over all points."""


def spherical_kmeans(
    points: NDArray[np.float32],
    k: int,
    *,
    restarts: int,
    iterations: int,
    seed: int,
    weights: NDArray[np.float32] | None = None,
    screen: int | None = None,
) -> NDArray[np.float32]:
    """Unit centres (k, D) of points (N, D), which are normalised first; the best of `restarts` runs is kept.

    weights: what each point counts, (N,), positive; None: all the same. screen: the runs are made and compared on
    about so many of the points, evenly taken; the best goes on over all of them for a REFINED-th of the iterations;
    None: every run takes all points. Raises UserError when there are fewer points than centres, or some are not finite.
    """
    import faiss

    if len(points) < k:
        raise UserError(f"k-means: {len(points)} points are fewer than the {k} clusters asked for (clusters.count)")
    if not np.isfinite(points).all():
        raise UserError(
            "k-means: some of the codes are not finite; look for damaged features or a training that diverged"
        )
    points = np.array(points, dtype=np.float32, order="C")
    faiss.normalize_L2(points)
    every = 1 if screen is None else max(1, len(points) // max(screen, k))
    if every == 1:
        return _train(points, k, restarts, iterations, seed, weights)
    some = None if weights is None else np.ascontiguousarray(weights[::every])
    best = _train(np.ascontiguousarray(points[::every]), k, restarts, iterations, seed, some)
    return _train(points, k, 1, -(-iterations // REFINED), seed, weights, best)


def _train(
    points: NDArray[np.float32], k: int, restarts: int, iterations: int, seed: int, weights: NDArray[np.float32] | None,
    begin: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]:  # fmt: skip
    """FAISS's k-means of unit points; `begin`: the centres (k, D) that it starts from."""
    import faiss

    kmeans = faiss.Kmeans(
        points.shape[1],
        k,
        niter=iterations,
        nredo=restarts,
        seed=seed + 1,
        spherical=True,
        min_points_per_centroid=1,
        max_points_per_centroid=len(points),
    )
    kmeans.train(points, weights=weights, init_centroids=begin)
    return np.asarray(kmeans.centroids, dtype=np.float32)


def assign(points: NDArray[np.float32], centres: NDArray[np.float32]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Nearest centre by cosine (N,) of points (N, D), and the cosines of the nearest two (N, 2), or one with k = 1."""
    import faiss

    points = np.array(points, dtype=np.float32, order="C")
    faiss.normalize_L2(points)
    index = faiss.IndexFlatIP(centres.shape[1])
    index.add(np.ascontiguousarray(centres))
    cosines, found = index.search(points, min(2, len(centres)))
    return found[:, 0], cosines


def margin(points: NDArray[np.float32], centres: NDArray[np.float32]) -> float:
    """By how much the cosine with the nearest centre exceeds that with the next one, on average; 0 with one centre."""
    _, cosines = assign(points, centres)
    return float((cosines[:, 0] - cosines[:, 1]).mean(dtype=np.float64)) if cosines.shape[1] == 2 else 0.0


def density_weights(
    points: NDArray[np.float32], cells: int, power: float, *, iterations: int, seed: int, screen: int | None = None
) -> NDArray[np.float32]:
    """What each of the points (N, D) counts so that dense regions don't take all centres: n^(−power), mean 1.

    n is the number of points in its cell, of `cells` cells that one run of k-means finds (`screen` as there).
    """
    centres = spherical_kmeans(points, cells, restarts=1, iterations=iterations, seed=seed, screen=screen)
    cell, _ = assign(points, centres)
    counts = np.bincount(cell, minlength=cells).astype(np.float64)
    weights: NDArray[np.float64] = counts[cell] ** -power
    return np.asarray(weights / weights.mean(), np.float32)
