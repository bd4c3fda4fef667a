"""The search against golden neighbours and a float64 brute force, whatever the blocks, library and ties."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest

from stego_dist.errors import UserError
from stego_dist.knn import search as module
from stego_dist.knn.search import SLACK, Neighbours, backend, faiss_top_k, search, torch_top_k
from tests.helpers import assert_golden

BACKENDS = [faiss_top_k, torch_top_k]
BLOCKS = [7, 64, 1000]


@dataclass
class Array:
    """A database in memory that counts how often it is walked."""

    descriptors: np.ndarray
    walks: int = 0

    def blocks(self, size: int) -> Iterator[tuple[int, np.ndarray]]:
        self.walks += 1
        for first in range(0, len(self), size):
            yield first, self.descriptors[first : first + size]

    def rows(self, kind: str, ids: np.ndarray) -> np.ndarray:
        assert kind == "descriptors"
        return self.descriptors[ids]

    def __len__(self) -> int:
        return len(self.descriptors)


def unit(rng: np.random.Generator, n: int, dim: int = 24) -> np.ndarray:
    x = rng.standard_normal((n, dim))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def brute_force(feats: np.ndarray, sources: np.ndarray, k: int, exclude: bool = False) -> Neighbours:
    """By a loop in float64: the query first, then by (−similarity, id)."""
    n = len(feats)
    ids, similarities = np.full((n, k), -1), np.full((n, k), -1, np.float32)
    wide = feats.astype(np.float64)
    for q in range(n):
        dots = (wide * wide[q]).sum(1)
        allowed = [i for i in range(n) if i != q and not (exclude and sources[i] == sources[q])]
        chosen = [q, *sorted(allowed, key=lambda i: (-dots[i], i))][:k]
        ids[q, : len(chosen)], similarities[q, : len(chosen)] = chosen, dots[chosen]
    return Neighbours(ids, similarities)


def find(feats: np.ndarray, sources: np.ndarray | None = None, **options: object) -> Neighbours:
    arguments = {"k": 10, "block": 64, "top_k": faiss_top_k, **options}
    sources = np.arange(len(feats)) if sources is None else sources
    return search(query_ids=np.arange(len(feats)), database=Array(feats), sources=sources, **arguments)


def assert_same(found: Neighbours, expected: Neighbours) -> None:
    np.testing.assert_array_equal(found.ids, expected.ids)
    np.testing.assert_array_equal(found.similarities, expected.similarities)
    assert found.similarities.dtype == np.float32 and found.ids.dtype == np.int64


@pytest.mark.parametrize("top_k", BACKENDS)
@pytest.mark.parametrize("block", BLOCKS)
def test_golden(golden, top_k, block):
    case = golden("knn")
    feats = case["feats"] / np.linalg.norm(case["feats"], axis=1, keepdims=True)
    k = case["out_neighbours"].shape[1]
    found = find(feats, k=k, top_k=top_k, block=block)
    np.testing.assert_array_equal(found.ids, case["out_neighbours"])
    assert_golden(found.similarities, case["out_similarities"])


@pytest.mark.parametrize("top_k", BACKENDS)
@pytest.mark.parametrize("block", BLOCKS)
def test_equals_brute_force(top_k, block):
    feats = unit(np.random.default_rng(0), 230)
    assert_same(find(feats, k=12, top_k=top_k, block=block), brute_force(feats, np.arange(230), 12))


def test_random_cases_equal_brute_force():
    """Near ties included: coordinates on a coarse grid give many equal and almost equal cosines."""
    rng = np.random.default_rng(1)
    for case in range(12):
        n, k, dim = int(rng.integers(20, 120)), int(rng.integers(1, 20)), int(rng.integers(2, 6))
        coarse = rng.integers(-2, 3, (n, dim)) + 0.001 * rng.integers(-1, 2, (n, dim))
        coarse[:, 0] += 5
        feats = (coarse / np.linalg.norm(coarse, axis=1, keepdims=True)).astype(np.float32)
        sources = rng.integers(0, n // 3, n)
        exclude, top_k = bool(case % 2), BACKENDS[case // 2 % 2]
        found = find(feats, sources, k=k, block=int(rng.integers(1, 60)), top_k=top_k, exclude_same_image=exclude)
        assert_same(found, brute_force(feats, sources, k, exclude))


def duplicated(count: int = 60) -> np.ndarray:
    """More exact copies than candidates, spread over the ids, and copies that differ in one last bit."""
    rng = np.random.default_rng(2)
    feats = unit(rng, 200)
    feats[rng.permutation(200)[:count]] = feats[17]
    moved = rng.permutation(200)[:15]
    feats[moved] = feats[17]
    feats[moved, 0] = np.nextafter(feats[17, 0], np.float32(0))  # a little shorter
    return feats


@pytest.mark.parametrize("top_k", BACKENDS)
@pytest.mark.parametrize("block", [*BLOCKS, 1, 199])
def test_heavy_ties_are_sorted_by_id(top_k, block):
    feats, k = duplicated(), 5
    copies = [set(np.flatnonzero((feats == row).all(1)).tolist()) for row in feats]
    assert max(map(len, copies)) > k + SLACK  # so float32 alone may lose some
    found = find(feats, k=k, top_k=top_k, block=block)
    assert_same(found, brute_force(feats, np.arange(200), k))
    for q, row in enumerate(found.ids):
        if len(copies[q]) > 40:
            assert row.tolist() == [q, *sorted(copies[q] - {q})[: k - 1]]


def test_ties_make_a_query_searched_again():
    """Without ties one walk over the database is enough; a query with too many is given another."""
    for feats, walks in ((unit(np.random.default_rng(0), 200), 1), (duplicated(), None)):
        database = Array(feats)
        search(query_ids=np.arange(200), database=database, sources=np.arange(200), k=5, block=50)
        assert database.walks == walks if walks else database.walks > 1


def test_a_backend_that_loses_ties_and_rounds_differently_gives_the_same():
    """Any product within the stated rounding will do: here one with noise and ties broken backwards."""
    rng = np.random.default_rng(5)

    def sloppy(queries: np.ndarray, block: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        noise = rng.uniform(-1, 1, (len(queries), len(block))) * module.ROUNDING / 2.5
        products = (queries @ block.T + noise).astype(np.float32)
        rows = np.argsort(-products[:, ::-1], axis=1, kind="stable")[:, :k]
        rows = len(block) - 1 - rows
        return np.take_along_axis(products, rows, 1), rows

    feats = duplicated()
    assert_same(find(feats, k=5, top_k=sloppy), brute_force(feats, np.arange(200), 5))


def test_query_chunks_do_not_change_the_result(monkeypatch):
    feats = duplicated()
    whole = find(feats, k=6)
    monkeypatch.setattr(module, "QUERIES", 9)
    assert_same(find(feats, k=6), whole)


def test_some_queries_are_rows_of_the_whole():
    feats = duplicated()
    whole, ids = find(feats, k=6), np.array([150, 3, 17, 18])
    found = search(query_ids=ids, database=Array(feats), sources=np.arange(200), k=6, block=33)
    assert_same(found, Neighbours(whole.ids[ids], whole.similarities[ids]))


@pytest.mark.parametrize("top_k", BACKENDS)
@pytest.mark.parametrize("block", BLOCKS)
def test_other_crops_of_the_same_image_can_be_left_out(top_k, block):
    """All crops of an image are almost alike, so that without the rule they would be the neighbours."""
    rng = np.random.default_rng(3)
    sources = rng.permutation(np.repeat(np.arange(30), 6)) * 10
    centres = {s: unit(rng, 1)[0] for s in np.unique(sources)}
    feats = np.stack([centres[s] for s in sources]) + 0.01 * rng.standard_normal((180, 24))
    feats = (feats / np.linalg.norm(feats, axis=1, keepdims=True)).astype(np.float32)
    found = find(feats, sources, k=8, exclude_same_image=True, top_k=top_k, block=block)
    assert_same(found, brute_force(feats, sources, 8, exclude=True))
    assert (found.ids[:, 0] == np.arange(180)).all() and (sources[found.ids[:, 1:]] != sources[:, None]).all()
    kept = find(feats, sources, k=6, top_k=top_k, block=block)
    assert (sources[kept.ids] == sources[:, None]).all()


def test_too_few_samples_are_padded():
    feats = unit(np.random.default_rng(4), 4)
    found = find(feats, k=6)
    assert_same(found, brute_force(feats, np.arange(4), 6))
    assert (found.ids[:, 4:] == -1).all() and (found.similarities[:, 4:] == -1).all() and (found.ids[:, :4] >= 0).all()
    lonely = find(feats, np.array([0, 0, 0, 1]), k=6, exclude_same_image=True)
    assert lonely.ids.tolist()[0] == [0, 3, -1, -1, -1, -1] and sorted(lonely.ids[3, :4]) == [0, 1, 2, 3]
    assert find(feats[:1], k=3).ids.tolist() == [[0, -1, -1]]


def test_everything_from_one_image_leaves_the_sample_alone():
    """More samples than candidates, and all of them excluded."""
    feats = unit(np.random.default_rng(6), 80)
    found = find(feats, np.zeros(80, np.int64), k=3, exclude_same_image=True)
    assert found.ids.tolist() == [[q, -1, -1] for q in range(80)]


def test_opposite_vectors_are_neighbours_too():
    """A similarity of −1 is a result, not padding."""
    feats = np.array([[1, 0], [-1, 0], [0, 1]], np.float32)
    found = find(feats, k=3)
    assert found.ids.tolist() == [[0, 2, 1], [1, 2, 0], [2, 0, 1]] and found.similarities[0].tolist() == [
        1,
        0,
        -1,
    ]


def test_backends_by_name(monkeypatch):
    assert backend("torch") is torch_top_k and backend("faiss") in BACKENDS
    monkeypatch.setitem(__import__("sys").modules, "faiss", None)
    assert backend("auto") is torch_top_k
    with pytest.raises(UserError, match=r"knn\.backend: faiss can't be loaded"):
        backend("faiss")
