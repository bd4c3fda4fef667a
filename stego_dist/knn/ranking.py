"""Lists of the nearest: exact similarities, merged by (−similarity, id), and what becomes of them in the table.

Stored descriptors are such that their inner products are exact in float64 (features/descriptors.py), in any order, on
any library and any number of threads; so ties are true ties.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from stego_dist.knn.kernels import Ids, Stored

Exact = NDArray[np.float64]
PAIRS = 2048
"""Pairs whose products are taken at a time: they stay in the cache."""


@dataclass(frozen=True)
class Best:
    """The best so far of Q queries, best first, equal ones by id; padded with id −1 and similarity −∞."""

    similarities: Exact
    """(Q, k)"""
    ids: Ids
    """(Q, k)"""

    @classmethod
    def none(cls, queries: int, k: int) -> Self:
        """Nothing found yet."""
        return cls(np.full((queries, k), -np.inf), np.full((queries, k), -1))

    @property
    def worst(self) -> Exact:
        """Similarity (Q,) of the last one; what is below it can't enter."""
        return self.similarities[:, -1]

    def merged(self, similarities: Exact, ids: Ids) -> Self:
        """The best k of these and of more (Q, n), whose ids are others; −∞ marks what does not count."""
        both = np.concatenate([self.similarities, similarities], 1)
        all_ids = np.concatenate([self.ids, np.where(similarities > -np.inf, ids, -1)], 1)
        order = np.lexsort((all_ids, -both))[:, : self.ids.shape[1]]
        return type(self)(np.take_along_axis(both, order, 1), np.take_along_axis(all_ids, order, 1))


def merge(parts: Sequence[Best]) -> Best:
    """The best of disjoint parts of the database."""
    best = parts[0]
    for part in parts[1:]:
        best = best.merged(part.similarities, part.ids)
    return best


@dataclass(frozen=True)
class Neighbours:
    """Rows of the table for Q queries, the query itself first; padded with id −1 and similarity −1."""

    ids: Ids
    """(Q, k)"""
    similarities: NDArray[np.float32]
    """(Q, k)"""


def neighbours(query_ids: Ids, own: Exact, best: Best, min_similarity: float | None = None) -> Neighbours:
    """The table's rows: the query itself with its similarity `own` (Q,), then others of at least `min_similarity`."""
    k = best.ids.shape[1]
    usable = (best.ids >= 0) & (best.ids != query_ids[:, None])
    if min_similarity is not None:
        usable &= best.similarities >= min_similarity
    order = np.argsort(~usable, axis=1, kind="stable")[:, : k - 1]  # the usable ones move to the front
    usable = np.take_along_axis(usable, order, 1)
    ids = np.where(usable, np.take_along_axis(best.ids, order, 1), -1)
    similarities = np.where(usable, np.take_along_axis(best.similarities, order, 1), -1.0)
    return Neighbours(
        np.concatenate([query_ids[:, None], ids], 1),
        np.concatenate([own[:, None], similarities], 1).astype(np.float32),
    )


def products(queries: Stored, rows: Stored, which: Ids, where: Ids) -> Exact:
    """Exact inner products (n,) of queries[which] with rows[where]."""
    found = np.empty(len(which))
    wide = queries.astype(np.float64)
    for start in range(0, len(which), PAIRS):
        part = slice(start, start + PAIRS)
        found[part] = np.einsum("nd,nd->n", rows[where[part]].astype(np.float64), wide[which[part]])
    return found


def top_k(similarities: Exact, k: int) -> tuple[Exact, Ids]:
    """The best k columns (Q, k) of exact similarities (Q, n), by (−similarity, column), and which they are."""
    count = similarities.shape[1]
    if count > k:
        least = np.partition(similarities, count - k, axis=1)[:, count - k, None]
        rows, columns = np.nonzero(similarities >= least)  # at least k a row; more where the last one is tied
        starts = np.searchsorted(rows, np.arange(len(similarities)))
        order = np.lexsort((columns, -similarities[rows, columns], rows))
        chosen = columns[order][starts[:, None] + np.arange(k)]
    else:
        chosen = np.argsort(-similarities, axis=1, kind="stable")
    return np.take_along_axis(similarities, chosen, 1), chosen
