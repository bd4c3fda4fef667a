"""Exact search in a share of the database, in blocks, with a result that blocks, libraries and ties can't change.

1. A kernel gives each block's best candidates in float32.
2. Those that could still enter the list are scored exactly (knn/ranking.py) and merged into it.
3. Where the block's last candidate is within rounding of the list's end, the block may hold more: it is searched again
   in float64 for those queries, block by block, at a few times the cost.

So the lists depend on the descriptors alone. Memory is bounded by the budget: a share stays in memory when it fits,
else it streams from disk for every chunk of queries.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from stego_dist.errors import ConfigError
from stego_dist.knn.kernels import Ids, Kernel, Stored
from stego_dist.knn.ranking import Best, products, top_k

SLACK = 8
"""Candidates beyond k."""
SAME_IMAGE_SLACK = 32
"""And more where crops of the same image are left out."""
FIXED = 64 * 2**20
"""Bytes for the libraries' own buffers and for blocks in float64."""
WIDE_ROWS, WIDE_QUERIES = 4096, 256
"""Size of a product in float64."""


class Database(Protocol):
    """Descriptors by id (features.store.FeatureStore)."""

    def descriptors(self, first: int, last: int) -> Stored:
        """Those of ids first … last − 1, (n, D)."""

    def rows(self, kind: str, ids: Ids) -> Stored:
        """Those ("descriptors") of any ids, (n, D)."""

    def __len__(self) -> int: ...


@dataclass(frozen=True)
class Sizes:
    """What a share's search holds in memory."""

    resident: bool
    """Whether the share stays in memory."""
    rows: int
    """Descriptors of a block."""
    queries: int
    """Queries that visit the blocks together."""


def plan_sizes(memory: int, share: int, dim: int, itemsize: int, wanted: int) -> Sizes:
    """Sizes for a budget of `memory` bytes and a share of so many descriptors; `wanted`: candidates of a query.

    Raises ConfigError when the budget is too small for anything.
    """
    stored = share * dim * itemsize
    resident = stored <= 0.7 * (memory - FIXED)
    free = memory - FIXED - (stored if resident else 0)
    row, query = dim * (itemsize + 4), query_bytes(dim, wanted)
    rows = min(65536, free // 2 // row)
    queries = min(4096 if resident else 65536, free // 2 // query)  # more where they make the share stream less often
    if rows < 256 or queries < 16:
        least = FIXED + 2 * max(256 * row, 16 * query)
        raise ConfigError(
            f"knn.memory_gb: {memory / 1e9:.3g} is too little for descriptors of width {dim}; give at least "
            f"{math.ceil(least / 1e7) / 100:.2f}"
        )
    return Sizes(resident, rows, queries)


def query_bytes(dim: int, wanted: int) -> int:
    """What a query takes with its lists."""
    return 12 * dim + 160 * wanted


class ExactShare:
    """The descriptors of ids first … last − 1, searched exactly.

    Args:
        database: where descriptors are read.
        kernel: who multiplies.
        memory: bytes that may be held.
        k: length of the lists.
        sources: (N,) source image of every sample of the database; given, other crops of a query's source image (and
            the query itself) are left out.
    """

    def __init__(
        self, database: Database, first: int, last: int, kernel: Kernel, memory: int, k: int, sources: Ids | None = None
    ) -> None:
        self.database, self.first, self.last, self.kernel, self.k = database, first, last, kernel, k
        self.wanted = k + SLACK + (0 if sources is None else SAME_IMAGE_SLACK)
        sample = database.descriptors(first, first + 1)
        self.dim = sample.shape[1]
        self.sizes = plan_sizes(memory, last - first, self.dim, sample.itemsize, self.wanted)
        self.sources = None if sources is None else sources[first:last]
        self._resident: list[tuple[int, Stored, Any]] | None = None

    def best(self, queries: Stored, query_sources: Ids | None = None) -> Best:
        """The best k (Q, k) of this share for queries (Q, D); query_sources (Q,): their source images."""
        parts = []
        for start in range(0, len(queries), self.sizes.queries):
            part = slice(start, start + self.sizes.queries)
            parts.append(self._visit_all(queries[part], None if query_sources is None else query_sources[part]))
        return Best(np.concatenate([p.similarities for p in parts]), np.concatenate([p.ids for p in parts]))

    def _visit_all(self, queries: Stored, query_sources: Ids | None) -> Best:
        best = Best.none(len(queries), self.k)
        wide = np.ascontiguousarray(queries, dtype=np.float32)
        for first, rows, block in self._blocks():
            same = None
            if query_sources is not None and self.sources is not None:
                same = (query_sources, self.sources[first - self.first : first - self.first + len(rows)])
            best = self._visit(best, queries, wide, first, rows, block, same)
        return best

    def _visit(
        self, best: Best, queries: Stored, wide: Any, first: int, rows: Stored, block: Any, same: tuple[Ids, Ids] | None
    ) -> Best:
        """The list after a block: `rows` as stored, `block` as the kernel keeps it, ids from `first` on."""
        rounding = self.kernel.rounding(self.dim)
        values, where = self.kernel.top_k(wide, block, min(self.wanted, len(rows)))
        possible = values + rounding >= best.worst[:, None]
        if same is not None:
            possible &= same[1][where] != same[0][:, None]
        which, column = np.nonzero(possible)
        similarities = np.full(values.shape, -np.inf)
        similarities[which, column] = products(queries, rows, which, where[which, column])
        after = best.merged(similarities, where + first)
        if where.shape[1] < len(rows):
            again = np.flatnonzero(values[:, -1] + rounding >= after.worst)
            for start in range(0, len(again), WIDE_QUERIES):
                some = again[start : start + WIDE_QUERIES]
                exact = Best(best.similarities[some], best.ids[some])
                exact = _visit_exactly(
                    exact, queries[some], first, rows, None if same is None else (same[0][some], same[1])
                )
                after.similarities[some], after.ids[some] = exact.similarities, exact.ids
        return after

    def _blocks(self) -> Iterator[tuple[int, Stored, Any]]:
        if self._resident is not None:
            yield from self._resident
            return
        kept = []
        for first in range(self.first, self.last, self.sizes.rows):
            rows = self.database.descriptors(first, min(first + self.sizes.rows, self.last))
            item = (first, rows, self.kernel.load(rows))
            if self.sizes.resident:
                kept.append(item)
            yield item
        self._resident = kept if self.sizes.resident else None


def _visit_exactly(best: Best, queries: Stored, first: int, rows: Stored, same: tuple[Ids, Ids] | None) -> Best:
    """The same in float64 for every row, slowly."""
    wide = queries.astype(np.float64)
    for start in range(0, len(rows), WIDE_ROWS):
        part = slice(start, start + WIDE_ROWS)
        similarities = wide @ rows[part].astype(np.float64).T
        if same is not None:
            similarities[same[1][part] == same[0][:, None]] = -np.inf
        found, columns = top_k(similarities, best.ids.shape[1])
        best = best.merged(found, columns + first + start)
    return best
