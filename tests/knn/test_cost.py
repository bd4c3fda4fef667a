"""The cost of a search against sums done by hand, and the choice that follows from it."""

from __future__ import annotations

import faiss
import numpy as np
import pytest

from stego_dist.console import duration
from stego_dist.errors import ConfigError
from stego_dist.knn.cost import Rates, choose, default_cells, exact_cost, ivf_cost, measure_rates, pq_bytes
from stego_dist.knn.exact import FIXED
from stego_dist.knn.ivf import train_index
from stego_dist.knn.kernels import FaissKernel
from stego_dist.knn.torch_kernel import TorchKernel
from tests.knn.database import unit

RATES = Rates(flops=4e10, matmul_flops=8e10, scan_flops=1e10, query_seconds=1e-4, read_bytes=1e9)
KNOWN = {"k": 30, "rates": RATES}


def test_exact_by_hand():
    cost = exact_cost(100_000, 400, workers=2, memory=2e9, **KNOWN)
    assert cost.fits and cost.method == "exact" and cost.index_bytes == 0
    assert cost.phases["products"] == pytest.approx(2 * 400 * 1e10 / 4e10 / 2)
    assert cost.phases["rescore"] == pytest.approx(100_000 * 1e-4 / 2)
    # each worker reads its half of the 80 MB, and all queries
    assert cost.bytes_read == 80e6 + 2 * 80e6 and cost.phases["read"] == pytest.approx(0.12)
    assert cost.seconds == pytest.approx(sum(cost.phases.values()))
    assert cost.table_bytes == 100_000 * 30 * 12
    assert 40e6 < cost.memory_per_worker <= 2e9
    sampled = exact_cost(100_000, 400, workers=2, memory=2e9, queries=1000, **KNOWN)
    assert sampled.phases["products"] == pytest.approx(cost.phases["products"] / 100)


def test_what_does_not_fit_is_read_again():
    held = exact_cost(10**7, 400, workers=4, memory=4e9, **KNOWN)
    streamed = exact_cost(10**7, 400, workers=4, memory=1e9, **KNOWN)
    assert held.fits and not streamed.fits
    assert streamed.bytes_read > 10 * held.bytes_read and streamed.memory_per_worker <= 1e9
    assert streamed.phases["products"] == held.phases["products"]
    with pytest.raises(ConfigError, match=r"knn\.memory_gb"):
        exact_cost(1000, 400, workers=1, memory=FIXED, **KNOWN)


def test_an_inverted_file_by_hand():
    cost = ivf_cost(2**20, 384, workers=2, memory=2e9, nprobe=16, **KNOWN)
    n, cells, points = 2**20, 4096, 64 * 4096
    assert cost.cells == cells and cost.fits
    vectors = 2 * 384
    assert cost.phases["train"] == pytest.approx(2 * 384 * cells * points * 10 / 8e10 + vectors * points / 1e9)
    assert cost.phases["build"] == pytest.approx(2 * 384 * cells * n / 8e10 / 2 + vectors * n / 2 / 1e9)
    looked = n * 2 * 384 * (cells / 8e10 + 16 * n / cells / 2 / 1e10)
    assert cost.phases["search"] == pytest.approx(looked + n * 1e-4 / 2 + vectors * n / 1e9)
    assert cost.index_bytes == n * (4 * 384 + 8) + 2 * cells * 4 * 384
    assert cost.seconds == pytest.approx(sum(cost.phases.values()))


@pytest.mark.parametrize("cost", [exact_cost, ivf_cost])
def test_more_costs_more(cost):
    seconds = [cost(n, 384, workers=4, memory=2e9, **KNOWN).seconds for n in (10**4, 10**5, 10**6, 10**7, 10**8)]
    assert seconds == sorted(seconds)
    alone, shared = (cost(10**6, 384, workers=w, memory=2e9, **KNOWN) for w in (1, 8))
    assert shared.seconds < alone.seconds and shared.memory_per_worker < alone.memory_per_worker
    wider = cost(10**6, 768, workers=4, memory=2e9, **KNOWN)
    assert wider.seconds > cost(10**6, 384, workers=4, memory=2e9, **KNOWN).seconds


def test_coarser_codes_take_less_memory_and_time_to_scan():
    flat, sq8, pq = (ivf_cost(10**7, 384, workers=4, memory=2e9, code=c, **KNOWN) for c in ("flat", "sq8", "pq"))
    assert flat.memory_per_worker > sq8.memory_per_worker >= pq.memory_per_worker  # training bounds it from below
    assert not flat.fits and sq8.fits and pq.fits and sq8.index_bytes > pq.index_bytes
    assert flat.phases["search"] > sq8.phases["search"] > pq.phases["search"]
    assert pq.index_bytes == 10**7 * (48 + 8) + 4 * pq.cells * 4 * 384


def test_auto_takes_the_exact_search_until_it_takes_too_long():
    def taken(n: int) -> tuple[str, str]:
        return choose(*(cost(n, 384, workers=2, memory=2e9, **KNOWN) for cost in (exact_cost, ivf_cost)))

    assert taken(10**4)[0] == taken(10**5)[0] == "exact"
    assert taken(10**7)[0] == taken(10**9)[0] == "ivf"
    assert "not worth approximating" in taken(10**5)[1] and "instead of" in taken(10**7)[1]


@pytest.mark.parametrize(("n", "cells"), [(1, 1), (38, 1), (78, 2), (10_000, 256), (10**6, 4096), (10**8, 32768)])
def test_cells(n, cells):
    assert default_cells(n) == cells


@pytest.mark.parametrize("dim", [24, 50])
def test_bytes_of_a_code_are_those_of_the_index(dim, tmp_path):
    train_index(unit(np.random.default_rng(0), 300, dim), 300, "pq", 0, tmp_path / "index")
    index = faiss.read_index(str(tmp_path / "index"))
    assert index.code_size == pq_bytes(dim)
    assert not index.do_polysemous_training  # minutes of annealing for a search that is not used


@pytest.mark.parametrize("kernel", [FaissKernel(), TorchKernel()])
def test_rates_of_a_real_search(kernel):
    rates = measure_rates(kernel, dim=32, k=5, read_bytes=1e9, rows=2048)
    assert rates.read_bytes == 1e9 and rates.query_seconds >= 0
    assert all(1e6 < rate < 1e15 for rate in (rates.flops, rates.matmul_flops, rates.scan_flops))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(1.23, "1.23 s"), (600, "10 min"), (9000, "2.5 h"), (864_000, "10 days"), (1e11, "3,171 years")],
)
def test_durations(seconds, text):
    assert duration(seconds) == text
