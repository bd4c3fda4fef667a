"""The exact search against golden neighbours and a float64 brute force, whatever blocks, shares, library and ties."""

from __future__ import annotations

import re
import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest
import torch

from stego_dist.errors import ConfigError, UserError
from stego_dist.knn import exact, kernels
from stego_dist.knn.exact import FIXED, SLACK, ExactShare, Sizes, plan_sizes
from stego_dist.knn.kernels import FaissKernel, kernel
from stego_dist.knn.ranking import Neighbours, products, top_k
from stego_dist.knn.search import search, share_spans
from stego_dist.knn.torch_kernel import TorchKernel
from stego_dist.system import may_have_gpu
from tests.conftest import REPO
from tests.helpers import assert_golden
from tests.knn.database import Array, assert_same, brute_force, on_grid, unit

KERNELS = [FaissKernel(), TorchKernel()]
BLOCKS = [7, 64, 1000]


@pytest.fixture
def blocks(monkeypatch):
    """Fix the sizes of a share's search."""

    def fix(rows: int, queries: int = 4096, resident: bool = True) -> None:
        monkeypatch.setattr(exact, "plan_sizes", lambda *_: Sizes(resident, rows, queries))

    return fix


def find(feats: np.ndarray, ids: np.ndarray | None = None, **options: object) -> Neighbours:
    ids = np.arange(len(feats)) if ids is None else ids
    return search(query_ids=ids, database=Array(feats), **{"k": 10, "by": KERNELS[0], **options})


@pytest.mark.parametrize("by", KERNELS)
@pytest.mark.parametrize("rows", BLOCKS)
def test_golden(golden, blocks, by, rows):
    blocks(rows)
    case = golden("knn")
    found = find(on_grid(case["feats"], np.float32), k=case["out_neighbours"].shape[1], by=by)
    np.testing.assert_array_equal(found.ids, case["out_neighbours"])
    assert_golden(found.similarities, case["out_similarities"])


@pytest.mark.parametrize("by", KERNELS)
@pytest.mark.parametrize("rows", BLOCKS)
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_equals_brute_force(blocks, by, rows, dtype):
    blocks(rows)
    feats = unit(np.random.default_rng(0), 230, dtype=dtype)
    assert_same(find(feats, k=12, by=by), brute_force(feats, 12))


def test_random_cases_equal_brute_force(blocks):
    """Near ties included: coordinates on a coarse grid give many equal and almost equal cosines."""
    rng = np.random.default_rng(1)
    for case in range(24):
        n, k, dim = int(rng.integers(20, 120)), int(rng.integers(1, 20)), int(rng.integers(2, 6))
        coarse = rng.integers(-2, 3, (n, dim)) + 0.001 * rng.integers(-1, 2, (n, dim))
        coarse[:, 0] += 5
        feats = on_grid(coarse, [np.float16, np.float32][case % 3 == 0])
        blocks(int(rng.integers(1, 60)), int(rng.integers(1, 60)), bool(rng.integers(2)))
        rules = {
            "sources": rng.integers(0, n // 3, n) if case % 2 else None,
            "min_similarity": float(rng.uniform(0.5, 0.99)) if case % 5 == 0 else None,
        }
        found = find(feats, k=k, by=KERNELS[case // 2 % 2], shares=int(rng.integers(1, 5)), **rules)
        assert_same(found, brute_force(feats, k, **rules))


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("dim", [24, 2048])
def test_inner_products_are_exact(dtype, dim):
    """In any order: a float64 sum of stored descriptors equals the sum of fractions."""
    rng = np.random.default_rng(7)
    feats = unit(rng, 12, dim, dtype)
    which, where = np.divmod(np.arange(144), 12)
    found = products(feats, feats, which, where)
    for (q, r), product in zip(zip(which, where), found):
        assert Fraction(product) == sum(Fraction(float(a)) * Fraction(float(b)) for a, b in zip(feats[q], feats[r]))
    order = rng.permutation(dim)
    np.testing.assert_array_equal(
        found.reshape(12, 12), feats.astype(float)[:, order] @ feats.astype(float)[:, order].T
    )


def duplicated(count: int = 60) -> np.ndarray:
    """More exact copies than candidates, spread over the ids, and copies that differ in one last bit."""
    rng = np.random.default_rng(2)
    feats = unit(rng, 200)
    feats[rng.permutation(200)[:count]] = feats[17]
    moved = rng.permutation(200)[:15]
    feats[moved] = feats[17]
    feats[moved, 0] = np.nextafter(feats[17, 0], np.float16(0))  # a little shorter
    return feats


@pytest.mark.parametrize("by", KERNELS)
@pytest.mark.parametrize("rows", [*BLOCKS, 1, 199])
@pytest.mark.parametrize("shares", [1, 3])
def test_heavy_ties_are_sorted_by_id(blocks, by, rows, shares):
    blocks(rows)
    feats, k = duplicated(), 5
    copies = [set(np.flatnonzero((feats == row).all(1)).tolist()) for row in feats]
    assert max(map(len, copies)) > k + SLACK  # so float32 alone may lose some
    found = find(feats, k=k, by=by, shares=shares)
    assert_same(found, brute_force(feats, k))
    for q, row in enumerate(found.ids):
        if len(copies[q]) > 40:
            assert row.tolist() == [q, *sorted(copies[q] - {q})[: k - 1]]


def test_only_what_may_hide_a_tie_is_searched_again(monkeypatch, blocks):
    """Without ties candidates are enough; a query with too many gets another look, at its block alone."""
    seen = []
    original = exact._visit_exactly

    def spy(best, queries, *rest):
        seen.append(len(queries))
        return original(best, queries, *rest)

    monkeypatch.setattr(exact, "_visit_exactly", spy)
    blocks(50)
    find(unit(np.random.default_rng(0), 200), k=5)
    assert not seen
    find(duplicated(), k=5)
    assert 0 < sum(seen) < 4 * 200


def test_a_kernel_that_loses_ties_and_rounds_differently_gives_the_same(blocks):
    """Any product within the stated rounding will do: here one with noise and ties broken backwards."""
    rng = np.random.default_rng(5)

    class Sloppy(FaissKernel):
        def top_k(self, queries: np.ndarray, block: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
            noise = rng.uniform(-1, 1, (len(queries), len(block))) * self.rounding(queries.shape[1])
            products = (queries @ block.T.astype(np.float32) + noise * 0.9).astype(np.float32)
            rows = np.argsort(-products[:, ::-1], axis=1, kind="stable")[:, :k]
            rows = len(block) - 1 - rows
            return np.take_along_axis(products, rows, 1), rows

    blocks(90)
    feats = duplicated()
    assert_same(find(feats, k=5, by=Sloppy()), brute_force(feats, 5))


def test_some_queries_are_rows_of_the_whole():
    feats = duplicated()
    whole, ids = find(feats, k=6), np.array([150, 3, 17, 18])
    assert_same(find(feats, ids, k=6), Neighbours(whole.ids[ids], whole.similarities[ids]))


@pytest.mark.parametrize("by", KERNELS)
@pytest.mark.parametrize("rows", BLOCKS)
@pytest.mark.parametrize("crops", [6, 60])
def test_other_crops_of_the_same_image_can_be_left_out(blocks, by, rows, crops):
    """All crops of an image are almost alike, so that without the rule they would be the neighbours."""
    blocks(rows)
    rng = np.random.default_rng(3)
    sources = rng.permutation(np.repeat(np.arange(180 // crops), crops)) * 10
    centres = {s: unit(rng, 1, dtype=np.float32)[0] for s in np.unique(sources)}
    feats = on_grid(np.stack([centres[s] for s in sources]) + 0.01 * rng.standard_normal((180, 24)))
    found = find(feats, sources=sources, k=8, by=by)
    assert_same(found, brute_force(feats, 8, sources))
    assert (found.ids[:, 0] == np.arange(180)).all() and (sources[found.ids[:, 1:]] != sources[:, None]).all()
    kept = find(feats, k=6, by=by)
    assert (sources[kept.ids] == sources[:, None]).all()


def test_too_few_samples_are_padded():
    feats = unit(np.random.default_rng(4), 4)
    found = find(feats, k=6)
    assert_same(found, brute_force(feats, 6))
    assert (found.ids[:, 4:] == -1).all() and (found.similarities[:, 4:] == -1).all() and (found.ids[:, :4] >= 0).all()
    lonely = find(feats, sources=np.array([0, 0, 0, 1]), k=6)
    assert lonely.ids.tolist()[0] == [0, 3, -1, -1, -1, -1] and sorted(lonely.ids[3, :4]) == [0, 1, 2, 3]
    assert find(feats[:1], k=3).ids.tolist() == [[0, -1, -1]]


def test_everything_from_one_image_leaves_the_sample_alone():
    """More samples than candidates, and all of them excluded."""
    found = find(unit(np.random.default_rng(6), 80), sources=np.zeros(80, np.int64), k=3)
    assert found.ids.tolist() == [[q, -1, -1] for q in range(80)]


def test_a_least_similarity_leaves_out_the_rest():
    feats = unit(np.random.default_rng(4), 60, 6)
    found = find(feats, k=9, min_similarity=0.6)
    assert_same(found, brute_force(feats, 9, min_similarity=0.6))
    assert (found.ids == -1).any() and found.similarities[found.ids >= 0].min() >= 0.6
    assert (find(feats, k=9, min_similarity=1.5).ids[:, 0] == np.arange(60)).all()


def test_opposite_vectors_are_neighbours_too():
    """A similarity of −1 is a result, not padding."""
    feats = np.array([[1, 0], [-1, 0], [0, 1]], np.float32)
    found = find(feats, k=3)
    assert found.ids.tolist() == [[0, 2, 1], [1, 2, 0], [2, 0, 1]] and found.similarities[0].tolist() == [1, 0, -1]


def test_the_best_of_exact_similarities():
    values = np.array([[0.1, 0.5, 0.5, 0.2, 0.5], [-np.inf, 0.3, -np.inf, 0.3, -np.inf]])
    best, columns = top_k(values, 3)
    assert columns.tolist() == [[1, 2, 4], [1, 3, 0]] and best[0].tolist() == [0.5] * 3
    assert top_k(values[:, :2], 3)[1].tolist() == [[1, 0], [1, 0]]


def test_shares_cover_the_database_once():
    for n, shares in ((10, 3), (3, 10), (7, 7), (1, 1)):
        spans = share_spans(n, shares)
        assert [i for span in spans for i in span] == list(range(n)) and len(spans) == min(n, shares)


def test_a_share_is_read_once_when_it_fits_and_streamed_when_it_does_not(blocks):
    feats = unit(np.random.default_rng(0), 100)
    for resident, reads in ((True, 100), (False, 400)):
        blocks(30, 25, resident)
        database = Array(feats)
        share = ExactShare(database, 0, 100, KERNELS[0], 2**31, 5)
        database.read = 0
        share.best(feats)
        assert database.read == reads


def test_sizes_follow_the_budget():
    for memory in (2**28, 2**30, 2**32):
        for share in (1000, 10**6, 10**8):
            sizes = plan_sizes(memory, share, 384, 2, 38)
            held = sizes.rows * 384 * 6 + sizes.queries * (12 * 384 + 160 * 38) + FIXED
            held += share * 768 if sizes.resident else 0
            assert held <= memory and sizes.rows >= 256 and sizes.queries >= 16
            assert sizes.resident == (share * 768 <= 0.7 * (memory - FIXED))
    assert plan_sizes(2**32, 10**6, 384, 2, 38).rows == 65536
    with pytest.raises(
        ConfigError, match=r"knn\.memory_gb: 0\.0671 is too little .* width 384; give at least 0\.07"
    ) as error:
        plan_sizes(FIXED + 1000, 1000, 384, 2, 38)
    least = float(re.search(r"at least ([\d.]+)", str(error.value))[1])
    assert plan_sizes(int(least * 1e9), 10**9, 384, 2, 38).rows >= 256


def test_kernels_by_name(monkeypatch):
    assert isinstance(kernel("torch"), TorchKernel) and isinstance(kernel("faiss"), FaissKernel)
    monkeypatch.setitem(__import__("sys").modules, "faiss", None)
    assert isinstance(kernel("auto"), TorchKernel)
    with pytest.raises(UserError, match=r"knn\.backend: faiss can't be loaded"):
        kernel("faiss")


def test_auto_asks_torch_where_there_may_be_a_gpu(monkeypatch):
    monkeypatch.setattr(kernels, "may_have_gpu", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert isinstance(kernel("auto"), TorchKernel)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert isinstance(kernel("auto"), FaissKernel)


@pytest.mark.skipif(may_have_gpu(), reason="this machine may have a GPU: torch is asked")
def test_without_a_gpu_a_worker_loads_no_torch():
    script = (
        "import sys; import stego_dist.jobs.knn_worker; from stego_dist.knn.kernels import kernel; "
        "kernel('auto'); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], cwd=REPO).returncode == 0
