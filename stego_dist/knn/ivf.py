"""Approximate search in a share of the database: a FAISS inverted file, whose candidates are scored exactly.

One coarse quantiser is trained on a sample and serves all shares. A query looks into the `nprobe` nearest lists of each
share; the best of what it finds are scored like those of the exact search (knn/ranking.py), so similarities in the
table are exact and only neighbours can be missing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from stego_dist.errors import UserError
from stego_dist.knn.cost import (
    KMEANS_ITERATIONS,
    POINTS_PER_CELL,
    PQ_CENTRES,
    PQ_ITERATIONS,
    PQ_POINTS,
    Code,
    default_cells,
    pq_bytes,
)
from stego_dist.knn.exact import FIXED, SAME_IMAGE_SLACK, SLACK, Database
from stego_dist.knn.kernels import Ids, Stored
from stego_dist.knn.ranking import Best, products
from stego_dist.rundir import atomic_path

EXPAND = {"flat": 1, "sq8": 2, "pq": 8}
"""Candidates for each entry of the list: the coarser the code, the more are scored exactly."""
QUERIES = 4096
ADDED = 65536


def training_ids(n: int, seed: int) -> Ids:
    """The sample on which the quantiser is trained, sorted."""
    return draw_ids(n, POINTS_PER_CELL * default_cells(n), seed, 1)


def draw_ids(n: int, count: int, *seed: int) -> Ids:
    """At most `count` different ids below n, sorted."""
    rng = np.random.default_rng(list(seed))
    return np.sort(rng.choice(n, min(n, count), replace=False))


def train_index(sample: Stored, n: int, code: Code, seed: int, path: Path) -> None:
    """Write an empty index for n descriptors, trained on `sample` (m, D). Raises UserError: too few for the code."""
    import faiss

    dim, lists = sample.shape[1], default_cells(n)
    kinds = {"flat": "Flat", "sq8": "SQ8", "pq": f"PQ{pq_bytes(dim)}np"}
    if code == "pq" and len(sample) < 256:
        raise UserError(f"knn.ivf_code=pq needs at least 256 descriptors, there are {len(sample)}; use sq8 or flat")
    index: Any = faiss.index_factory(dim, f"IVF{lists},{kinds[code]}", faiss.METRIC_INNER_PRODUCT)
    ivf = faiss.extract_index_ivf(index)
    ivf.cp.niter, ivf.cp.seed, ivf.cp.min_points_per_centroid = KMEANS_ITERATIONS, seed + 1, 1
    if code == "pq":
        index.pq.cp.niter, index.pq.cp.max_points_per_centroid = PQ_ITERATIONS, PQ_POINTS // PQ_CENTRES
    index.train(np.ascontiguousarray(sample, dtype=np.float32))
    _write(index, path)


def build_share(trained: Path, database: Database, first: int, last: int, path: Path) -> None:
    """Write the index of ids first … last − 1."""
    import faiss

    index = faiss.read_index(str(trained))
    for start in range(first, last, ADDED):
        rows = database.descriptors(start, min(start + ADDED, last))
        index.add(np.ascontiguousarray(rows, dtype=np.float32))
    _write(index, path)


class IvfShare:
    """Searches the index of ids first … last − 1 (arguments as ExactShare's); on a GPU when FAISS sees one.

    The descriptors stay in memory for the exact scores when both fit into the budget, else they are read from disk.
    """

    def __init__(
        self, path: Path, database: Database, first: int, last: int, memory: int, k: int, code: Code,
        sources: Ids | None = None,
    ) -> None:  # fmt: skip
        import faiss

        self.database, self.first, self.k = database, first, k
        self.wanted = min(last - first, EXPAND[code] * k + SLACK + (0 if sources is None else SAME_IMAGE_SLACK))
        self.sources = None if sources is None else sources[first:last]
        self.index: Any = faiss.read_index(str(path))
        one = database.descriptors(first, first + 1)
        stored = (last - first) * one.nbytes
        self._resident = None
        if path.stat().st_size + stored <= memory - FIXED:
            self._resident = database.descriptors(first, last)
        if faiss.get_num_gpus() > 0:
            self.index = faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), 0, self.index)

    def best(self, queries: Stored, nprobe: int, query_sources: Ids | None = None) -> Best:
        """The best k (Q, k) that `nprobe` lists hold for queries (Q, D)."""

        self.index.nprobe = nprobe
        parts = []
        for start in range(0, len(queries), QUERIES):
            some = queries[start : start + QUERIES]
            _, where = self.index.search(np.ascontiguousarray(some, dtype=np.float32), self.wanted)
            possible = where >= 0
            if query_sources is not None and self.sources is not None:
                possible &= self.sources[where] != query_sources[start : start + QUERIES, None]
            similarities = np.full(where.shape, -np.inf)
            which, column = np.nonzero(possible)
            similarities[which, column] = self._score(some, which, where[which, column])
            parts.append(Best.none(len(some), self.k).merged(similarities, where + self.first))
        return Best(np.concatenate([p.similarities for p in parts]), np.concatenate([p.ids for p in parts]))

    def _score(self, queries: Stored, which: Ids, where: Ids) -> Any:
        if self._resident is not None:
            return products(queries, self._resident, which, where)
        unique, place = np.unique(where, return_inverse=True)
        return products(queries, self.database.rows("descriptors", unique + self.first), which, place)


def recall(found: Ids, truth: Ids, k: int) -> float:
    """Share of the true neighbours of ranks 1 … k that stand among those found; ids (Q, >k), the query first."""
    wanted = truth[:, 1 : k + 1]
    hits = (wanted[:, :, None] == found[:, None, 1 : k + 1]).any(2) & (wanted >= 0)
    return float(hits.sum() / max(1, (wanted >= 0).sum()))


def _write(index: Any, path: Path) -> None:
    import faiss

    with atomic_path(path) as tmp:
        faiss.write_index(index, str(tmp))
