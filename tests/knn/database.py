"""Descriptors in memory, and their neighbours by brute force."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stego_dist.knn.ranking import Neighbours


@dataclass
class Array:
    """A database in memory that counts what is read."""

    stored: np.ndarray
    read: int = 0

    def descriptors(self, first: int, last: int) -> np.ndarray:
        assert 0 <= first < last <= len(self)
        self.read += last - first
        return self.stored[first:last].copy()

    def rows(self, kind: str, ids: np.ndarray) -> np.ndarray:
        assert kind == "descriptors"
        return self.stored[ids]

    def __len__(self) -> int:
        return len(self.stored)


def on_grid(x: np.ndarray, dtype: type = np.float16) -> np.ndarray:
    """Unit vectors as the feature store keeps them: multiples of 2⁻²⁴."""
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    return (np.rint(x * 2**24) / 2**24).astype(dtype)


def unit(rng: np.random.Generator, n: int, dim: int = 24, dtype: type = np.float16) -> np.ndarray:
    """Random directions."""
    return on_grid(rng.standard_normal((n, dim)), dtype)


def brute_force(
    feats: np.ndarray, k: int, sources: np.ndarray | None = None, min_similarity: float | None = None
) -> Neighbours:
    """By a loop in float64: the query first, then by (−similarity, id)."""
    n = len(feats)
    ids, similarities = np.full((n, k), -1), np.full((n, k), -1, np.float32)
    wide = feats.astype(np.float64)
    for q in range(n):
        dots = (wide * wide[q]).sum(1)
        allowed = [i for i in range(n) if i != q and not (sources is not None and sources[i] == sources[q])]
        allowed = [i for i in allowed if min_similarity is None or dots[i] >= min_similarity]
        chosen = [q, *sorted(allowed, key=lambda i: (-dots[i], i))][:k]
        ids[q, : len(chosen)], similarities[q, : len(chosen)] = chosen, dots[chosen]
    return Neighbours(ids, similarities)


def assert_same(found: Neighbours, expected: Neighbours) -> None:
    """To the bit."""
    np.testing.assert_array_equal(found.ids, expected.ids)
    np.testing.assert_array_equal(found.similarities, expected.similarities)
    assert found.similarities.dtype == np.float32 and found.ids.dtype == np.int64
