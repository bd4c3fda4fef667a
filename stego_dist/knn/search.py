"""Exact k nearest neighbours by cosine, in blocks, with a result that blocks and libraries can't change.

1. Each database block gives its best candidates in float32 (FAISS or torch); lists of blocks are merged.
2. The best k and some more are rescored in float64 and sorted by (−similarity, id).
3. A query whose last candidate is within rounding of its k-th neighbour may have lost a tie: it is searched
   again in float64. So the table depends on the descriptors alone. Memory is bounded by block and query sizes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from stego_dist.errors import UserError

Floats = NDArray[np.float32]
Ids = NDArray[np.int64]
TopK = Callable[[Floats, Floats, int], tuple[Floats, Ids]]

SLACK = 8
ROUNDING = 1e-5
"""Bound on the error of a float32 product of unit vectors, generous for any width in use."""
QUERIES = 1024


class Database(Protocol):
    """Descriptors that can be walked in blocks and read by id (features.store.FeatureStore)."""

    def blocks(self, size: int) -> Iterator[tuple[int, Floats]]: ...

    def rows(self, kind: str, ids: Ids) -> NDArray[Any]: ...

    def __len__(self) -> int: ...


@dataclass(frozen=True)
class Neighbours:
    """Neighbours of Q queries, best first; padded with id −1 and similarity −1."""

    ids: Ids
    """(Q, k)"""
    similarities: Floats
    """(Q, k)"""


def backend(name: Literal["auto", "faiss", "torch"]) -> TopK:
    """The function that finds the best of one block: FAISS where it is installed, else torch."""
    if name != "torch":
        try:
            import faiss
        except (ImportError, OSError) as error:
            if name == "faiss":
                raise UserError(f"knn.backend: faiss can't be loaded ({error}); use torch") from None
        else:
            return faiss_top_k if faiss.get_num_gpus() > 0 or not torch.cuda.is_available() else torch_top_k
    return torch_top_k


def faiss_top_k(queries: Floats, block: Floats, k: int) -> tuple[Floats, Ids]:
    """Best k inner products (Q, k) and their rows in the block, by FAISS; on a GPU when it sees one."""
    import faiss

    if faiss.get_num_gpus() > 0:
        resources = faiss.StandardGpuResources()
        return faiss.knn_gpu(resources, queries, block, k, metric=faiss.METRIC_INNER_PRODUCT)
    return faiss.knn(queries, block, k, metric=faiss.METRIC_INNER_PRODUCT)


def torch_top_k(queries: Floats, block: Floats, k: int) -> tuple[Floats, Ids]:
    """The same by torch, on a GPU when there is one."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    a, b = torch.from_numpy(queries).to(device), torch.from_numpy(block).to(device)
    values, rows = (a @ b.T).topk(k, dim=1)
    return values.cpu().numpy(), rows.cpu().numpy()


def search(
    *,
    query_ids: Ids,
    database: Database,
    sources: Ids,
    k: int,
    exclude_same_image: bool = False,
    block: int = 65536,
    top_k: TopK = faiss_top_k,
) -> Neighbours:
    """The k nearest of `database` to each of its own samples `query_ids` (Q,), the sample itself first.

    sources: (N,) source image of every sample; with `exclude_same_image` other crops of the query's source image are
    left out. Similarities are cosines.
    """
    most_crops = int(np.bincount(np.unique(sources, return_inverse=True)[1]).max())
    wanted = k + SLACK + (most_crops - 1 if exclude_same_image else 0)
    parts = [
        _search_chunk(query_ids[i : i + QUERIES], database, sources, k, exclude_same_image, block, top_k, wanted)
        for i in range(0, len(query_ids), QUERIES)
    ]
    return Neighbours(np.concatenate([p.ids for p in parts]), np.concatenate([p.similarities for p in parts]))


def _search_chunk(
    query_ids: Ids,
    database: Database,
    sources: Ids,
    k: int,
    exclude: bool,
    block: int,
    top_k: TopK,
    wanted: int,
) -> Neighbours:
    queries = np.ascontiguousarray(database.rows("descriptors", query_ids), np.float32)
    values, ids = _candidates(queries, database.blocks(block), wanted, top_k)
    result = Neighbours(np.full((len(queries), k), -1), np.full((len(queries), k), -1, np.float32))
    complete = ids.shape[1] >= len(database)
    for q, own in enumerate(query_ids):
        chosen, similarities = _rank(queries[q], int(own), ids[q], database, sources, k, exclude)
        uncertain = not complete and (len(chosen) < k or values[q, -1] >= similarities[-1] - ROUNDING)
        if uncertain:
            least = (similarities[-1] if len(chosen) == k else -2.0) - ROUNDING
            everything = np.concatenate(
                [first + np.flatnonzero(_dots(queries[q], rows) >= least) for first, rows in database.blocks(block)]
            )
            chosen, similarities = _rank(queries[q], int(own), everything, database, sources, k, exclude)
        result.ids[q, : len(chosen)], result.similarities[q, : len(chosen)] = chosen, similarities
    return result


def _candidates(queries: Floats, blocks: Iterable[tuple[int, Floats]], wanted: int, top_k: TopK) -> tuple[Floats, Ids]:
    """Best `wanted` of all blocks by float32 products: values and ids (Q, ≤ wanted), best first."""
    values = np.empty((len(queries), 0), np.float32)
    ids = np.empty((len(queries), 0), np.int64)
    for first, rows in blocks:
        more, where = top_k(queries, np.ascontiguousarray(rows, np.float32), min(wanted, len(rows)))
        values, ids = np.concatenate([values, more], 1), np.concatenate([ids, where + first], 1)
        order = np.argsort(-values, axis=1, kind="stable")[:, :wanted]
        values, ids = np.take_along_axis(values, order, 1), np.take_along_axis(ids, order, 1)
    return values, ids


def _rank(
    query: Floats, own: int, ids: Ids, database: Database, sources: Ids, k: int, exclude: bool
) -> tuple[Ids, NDArray[np.float64]]:
    """Candidates rescored in float64: the query's own id first, then by (−similarity, id), at most k."""
    if exclude:
        ids = ids[(sources[ids] != sources[own]) | (ids == own)]
    ids = np.union1d(ids, [own])
    similarities = _dots(query, database.rows("descriptors", ids))
    order = np.lexsort((ids, -similarities, ids != own))[:k]
    return ids[order], similarities[order]


def _dots(query: Floats, rows: Floats) -> NDArray[np.float64]:
    """Inner products (n,) in float64, each summed by itself in a fixed order."""
    products: NDArray[np.float64] = (rows.astype(np.float64) * query.astype(np.float64)).sum(1)
    return products
