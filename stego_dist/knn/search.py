"""The search in one process: every share visited in turn. What the job spreads over workers, and tests compare with."""

from __future__ import annotations

import numpy as np

from stego_dist.knn.exact import Database, ExactShare
from stego_dist.knn.kernels import Ids, Kernel, Stored, kernel
from stego_dist.knn.ranking import Neighbours, merge, neighbours, products


def search(
    *,
    query_ids: Ids,
    database: Database,
    k: int,
    sources: Ids | None = None,
    min_similarity: float | None = None,
    shares: int = 1,
    memory: int = 2**31,
    by: Kernel | None = None,
) -> Neighbours:
    """The k nearest of `database` to each of its own samples `query_ids` (Q,), the sample itself first.

    sources: (N,) source image of every sample; given, other crops of a query's source image are left out. Similarities
    are inner products of the stored unit vectors, those below `min_similarity` are left out. `shares` of the database
    are searched one after the other, each with `memory` bytes, by the kernel `by`: no effect on the result.
    """
    by = by or kernel("auto")
    queries = database.rows("descriptors", query_ids)
    query_sources = None if sources is None else sources[query_ids]
    parts = [
        ExactShare(database, span.start, span.stop, by, memory, k, sources).best(queries, query_sources)
        for span in share_spans(len(database), shares)
    ]
    return neighbours(query_ids, own_products(queries), merge(parts), min_similarity)


def share_spans(n: int, shares: int) -> list[range]:
    """Ids 0 … n − 1 in so many runs of nearly equal length; fewer where there are fewer ids."""
    shares = max(1, min(shares, n))
    return [range(n * i // shares, n * (i + 1) // shares) for i in range(shares)]


def own_products(queries: Stored) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Exact product (Q,) of each query (Q, D) with itself: 1 up to what its storage rounded."""
    own = np.arange(len(queries))
    return products(queries, queries, own, own)
