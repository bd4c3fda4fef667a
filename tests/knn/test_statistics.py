"""Statistics of a table against plain loops over random tables with ties, padding and crops of one image."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from stego_dist.knn.statistics import QUANTILES, TableReader, TableStatistics, crops_to_show, hubness, shown_ranks

N, K, POSITIVES = 60, 6, 3


def random_table(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sources, ids and similarities: rows end in padding of any length, similarities tie."""
    rng = np.random.default_rng(seed)
    ids = np.full((N, K), -1, np.int64)
    values = np.full((N, K), -1, np.float32)
    for i in range(N):
        filled = int(rng.integers(0, K)) if i % 3 == 0 else K - 1
        others = rng.choice(np.delete(np.arange(N), i), filled, replace=False, p=_skewed(i))
        ids[i, : filled + 1] = [i, *others]
        values[i, : filled + 1] = [1, *np.sort(rng.integers(5, 10, filled) / 10)[::-1]]
    return np.arange(N) // 5, ids, values


def _skewed(left_out: int) -> np.ndarray:
    weights = np.delete(1.0 / np.arange(1, N + 1) ** 2, left_out)
    return weights / weights.sum()


def read(sources: np.ndarray, ids: np.ndarray, values: np.ndarray, size: int, **kwargs: int) -> TableStatistics:
    reader = TableReader(sources=sources, k=K, positives=POSITIVES, **kwargs)
    for first in range(0, N, size):
        reader.add(first, ids[first : first + size], values[first : first + size])
    return reader.result()


@pytest.mark.parametrize("seed", [0, 1])
def test_all_numbers_against_loops(seed):
    sources, ids, values = random_table(seed)
    found = read(sources, ids, values, 7)
    pairs = [(i, r, int(ids[i, r])) for i in range(N) for r in range(1, K) if ids[i, r] >= 0]
    assert found.padded == pytest.approx(1 - len(pairs) / (N * (K - 1)), abs=1e-12)
    assert found.same_image == pytest.approx(np.mean([sources[i] == sources[j] for i, _, j in pairs]))
    for rank in range(1, K):
        at_rank = [(i, j) for i, r, j in pairs if r == rank]
        assert found.same_image_by_rank[rank - 1] == pytest.approx(
            np.mean([sources[i] == sources[j] for i, j in at_rank])
        )
    for rank in shown_ranks(K):
        expected = np.quantile([values[i, rank] for i, r, _ in pairs if r == rank], QUANTILES)
        np.testing.assert_allclose(found.similarity[rank], expected, rtol=1e-6)
    for hubs, last in ((found.hubness, K - 1), (found.hubness_of_positives, POSITIVES)):
        counts = np.array([sum(j == i and r <= last for _, r, j in pairs) for i in range(N)])
        assert (hubs.ranks, hubs.largest, hubs.hub) == (last, counts.max(), int(counts.argmax()))
        assert hubs.hub_share == pytest.approx(counts.max() / N)
        assert hubs.anti_hubs == pytest.approx((counts == 0).mean())
        assert hubs.skewness == pytest.approx(stats.skew(counts))
    near = [values[i, 1 : POSITIVES + 1][ids[i, 1 : POSITIVES + 1] >= 0] for i in range(N)]
    means = {i: float(row.mean()) for i, row in enumerate(near) if row.size}
    assert means[found.lowest] == pytest.approx(min(means.values()))
    assert means[found.highest] == pytest.approx(max(means.values()))
    assert means[found.median] == pytest.approx(np.quantile(list(means.values()), 0.5, method="inverted_cdf"))


def test_blocks_do_not_change_the_numbers():
    table = random_table(2)
    assert read(*table, 60) == read(*table, 1) == read(*table, 17)


def test_quantiles_of_a_sample_are_of_its_rows():
    sources, ids, values = random_table(3)
    found = read(sources, ids, values, 11, sample=10, seed=4)
    whole = read(sources, ids, values, 11)
    assert found.sampled == 10 and whole.sampled == N
    chosen = np.sort(np.random.default_rng(4).choice(N, 10, replace=False, shuffle=False))
    expected = np.quantile(values[chosen, 1][ids[chosen, 1] >= 0], QUANTILES)
    np.testing.assert_allclose(found.similarity[1], expected, rtol=1e-6)
    assert found.hubness == whole.hubness and found.same_image_by_rank == whole.same_image_by_rank


def test_a_table_without_neighbours():
    ids = np.full((N, K), -1)
    ids[:, 0] = np.arange(N)
    found = read(np.arange(N), ids, np.where(ids < 0, -1, 1).astype(np.float32), 16)
    assert found.padded == 1 and found.same_image is None and found.lowest is None and found.median is None
    assert found.similarity == dict.fromkeys(shown_ranks(K)) and found.same_image_by_rank == [None] * (K - 1)
    assert found.hubness.largest == 0 and found.hubness.skewness == 0 and found.hubness.anti_hubs == 1
    assert [why for why, _ in crops_to_show(found, drawn=2, seed=0)][1:] == ["drawn", "drawn"]


def test_hubness_in_chunks(monkeypatch):
    counts = np.random.default_rng(0).poisson(3, 1000).astype(np.int32)
    whole = hubness(counts, 5)
    monkeypatch.setattr("stego_dist.knn.statistics.CHUNK", 64)
    assert hubness(counts, 5).skewness == pytest.approx(whole.skewness) == pytest.approx(stats.skew(counts))


def test_the_drawn_crops_are_others_and_repeat():
    found = read(*random_table(0), 60)
    rows = crops_to_show(found, drawn=6, seed=1)
    assert rows == crops_to_show(found, drawn=6, seed=1) != crops_to_show(found, drawn=6, seed=2)
    drawn = [crop for why, crop in rows if why == "drawn"]
    assert len(drawn) == len(set(drawn)) == 6 and not {found.lowest, found.median, found.highest} & set(drawn)
    assert dict(rows)[f"biggest hub, a neighbour of {found.hubness.largest}"] == found.hubness.hub
    assert len(crops_to_show(found, drawn=1000, seed=0)) >= N
