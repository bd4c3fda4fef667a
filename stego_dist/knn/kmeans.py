"""Spherical k-means by FAISS: the clusters of codes, and of raw features for the baseline."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from stego_dist.errors import UserError


def spherical_kmeans(
    points: NDArray[np.float32], k: int, *, restarts: int, iterations: int, seed: int
) -> NDArray[np.float32]:
    """Unit centres (k, D) of points (N, D), which are normalised first; the best of `restarts` runs is kept.

    Raises UserError when there are fewer points than centres, or some are not finite.
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
    kmeans.train(points)
    return np.asarray(kmeans.centroids, dtype=np.float32)
