"""What a search for neighbours costs in seconds, bytes and memory, exactly and by an inverted file, before it is begun.

In: how many descriptors of which width, how many workers, and the rates of one worker. Out: a `Cost` for each
method. Pure arithmetic, except `measure_rates`, which times the search itself for about a second.

The exact search: the descriptors are dealt to the workers; every query visits all shares. A share is held in memory
when it fits and is read once; otherwise it is read anew for every block of queries. The inverted file (IVF): cells
are found by k-means on a sample; each worker indexes its share by the same cells and answers every query from it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from stego_dist.console import duration
from stego_dist.knn.exact import FIXED, SLACK, ExactShare, plan_sizes, query_bytes
from stego_dist.knn.kernels import Kernel

Code = Literal["flat", "sq8", "pq"]
Method = Literal["exact", "ivf"]

HALF, FLOAT, ID = 2, 4, 8
"""Bytes of a float16, of a float32, and of an id."""
POINTS_PER_CELL = 64
"""Training points for each cell of an inverted file, where there are so many."""
FEWEST_PER_CELL = 39
"""Below so many points a cell k-means is ill-posed (FAISS warns)."""
KMEANS_ITERATIONS = 10
PQ_CENTRES, PQ_POINTS, PQ_ITERATIONS = 256, 16384, 10
PQ_DISTANCE = 40.0
"""FLOP of a matrix product in the time that FAISS takes for one distance while it trains a product quantiser."""
SCAN_SQ8 = 0.5
"""Time of scanning an 8-bit vector, for that of a float32 one (FAISS on one core, 384 wide)."""
SCAN_PQ = 2.2
"""Time of a table look-up of PQ, for that of one dimension of a float32 vector (FAISS on one core)."""
QUERIES = 4096
"""Queries that are answered together."""
SAMPLED, TUNED = 1024, 256
"""Queries on which an inverted file's recall is measured, and those that choose how many cells are scanned."""
PATIENCE_S = 3600.0
"""An exact search that takes no longer is not worth approximating."""


@dataclass(frozen=True)
class Rates:
    """What one worker does in a second."""

    flops: float
    """FLOP/s of inner products with the selection of the best k, many queries at once."""
    matmul_flops: float
    """FLOP/s of inner products when only the best one is kept: k-means, and finding cells."""
    scan_flops: float
    """FLOP/s of one query against rows: how an inverted file's cells are scanned."""
    query_seconds: float
    """Seconds a query takes besides: rescoring of its candidates, order."""
    read_bytes: float
    """Bytes/s read from the disk."""


@dataclass(frozen=True)
class Cost:
    """An estimate for one method."""

    method: Method
    seconds: float
    """Wall time, all workers at work."""
    phases: dict[str, float]
    """Seconds of its parts, which add up to `seconds`."""
    bytes_read: float
    """Bytes read from the disk by all workers together."""
    table_bytes: float
    """The finished table: an id and a similarity for each entry."""
    candidate_bytes: float
    """Candidates of all shares, which lie on the disk until they are merged."""
    index_bytes: float
    """The inverted file, all shares together; 0 for the exact search."""
    memory_per_worker: float
    """Bytes."""
    fits: bool
    """Whether that is within the budget; for the exact search: whether the shares are resident."""
    cells: int = 0
    """nlist, of an inverted file."""


def exact_cost(
    n: int,
    dim: int,
    *,
    k: int,
    workers: int,
    rates: Rates,
    memory: float,
    queries: int | None = None,
    itemsize: int = HALF,
) -> Cost:
    """Cost of the exact search of `queries` (default: all n) among n descriptors of width `dim`.

    memory: budget of a worker in bytes; itemsize: bytes of a number of a descriptor.
    Raises ConfigError when the budget is too little.
    """
    queries = n if queries is None else queries
    stored, share = itemsize * dim * n, math.ceil(n / workers)
    sizes = plan_sizes(int(memory), share, dim, itemsize, k + SLACK)
    passes = 1 if sizes.resident else math.ceil(queries / sizes.queries)
    held = FIXED + sizes.rows * dim * (itemsize + FLOAT) + sizes.queries * query_bytes(dim, k + SLACK)
    held += itemsize * dim * share if sizes.resident else 0
    products = 2 * dim * n * queries / rates.flops / workers
    each = queries * rates.query_seconds / workers
    read = passes * stored + workers * itemsize * dim * queries
    phases = {"read": read / workers / rates.read_bytes, "products": products, "rescore": each}
    return Cost(
        method="exact",
        seconds=sum(phases.values()),
        phases=phases,
        bytes_read=read,
        table_bytes=queries * k * (ID + FLOAT),
        candidate_bytes=_candidates(queries, k, workers),
        index_bytes=0,
        memory_per_worker=held,
        fits=sizes.resident,
    )


def ivf_cost(
    n: int,
    dim: int,
    *,
    k: int,
    workers: int,
    rates: Rates,
    memory: float,
    nprobe: int = 32,
    nlist: int | None = None,
    code: Code = "flat",
    queries: int | None = None,
    itemsize: int = HALF,
) -> Cost:
    """Cost of training, building and searching an inverted file over n descriptors of width `dim`.

    nlist: cells, default `default_cells(n)`. Training runs on one worker. Every worker ranks the cells for every query
    and scans its own share of them. The trial answers sampled queries exactly, and fewer by more and more cells.
    """
    queries = n if queries is None else queries
    cells = default_cells(n) if nlist is None else nlist
    nprobe = min(nprobe, cells)
    size = vector_bytes(dim, code)
    points = min(n, POINTS_PER_CELL * cells)
    train = 2 * dim * cells * points * KMEANS_ITERATIONS / rates.matmul_flops
    assign = 2 * dim * cells * n / rates.matmul_flops / workers
    scanned = nprobe * n / cells / workers
    relative = {"flat": 1.0, "sq8": SCAN_SQ8, "pq": SCAN_PQ * size / dim}[code]
    if code == "pq":
        train += size * PQ_CENTRES * min(points, PQ_POINTS) * PQ_ITERATIONS * PQ_DISTANCE / rates.matmul_flops
        assign += 2 * dim * PQ_CENTRES * n / rates.matmul_flops / workers
    trial = 2 * dim * n / workers * ((SAMPLED + TUNED) / rates.flops + 2 * TUNED * relative / rates.scan_flops)
    look = queries * 2 * dim * (cells / rates.matmul_flops + relative * scanned / rates.scan_flops)
    each = queries * rates.query_seconds / workers
    read = itemsize * dim * (points + 2 * n + workers * queries)
    phases = {
        "train": train + itemsize * dim * points / rates.read_bytes,
        "build": assign + itemsize * dim * n / workers / rates.read_bytes,
        "trial": trial + itemsize * dim * n / workers / rates.read_bytes,
        "search": look + each + itemsize * dim * queries / rates.read_bytes,
    }
    index = n * (size + ID) + workers * cells * FLOAT * dim
    held = max(index / workers, points * FLOAT * dim)
    return Cost(
        method="ivf",
        seconds=sum(phases.values()),
        phases=phases,
        bytes_read=read,
        table_bytes=queries * k * (ID + FLOAT),
        candidate_bytes=_candidates(queries, k, workers),
        index_bytes=index,
        memory_per_worker=held,
        fits=held <= memory,
        cells=cells,
    )


def choose(exact: Cost, ivf: Cost) -> tuple[Method, str]:
    """What `auto` takes, and why in a sentence: exact unless it takes over an hour and longer than the other."""
    if exact.seconds <= PATIENCE_S:
        return "exact", f"the exact search takes about {duration(exact.seconds)}, which is not worth approximating"
    if exact.seconds <= ivf.seconds:
        return "exact", (
            f"the exact search takes about {duration(exact.seconds)}, no longer than an inverted file "
            f"({duration(ivf.seconds)})"
        )
    return "ivf", f"about {duration(ivf.seconds)} instead of {duration(exact.seconds)} for the exact search"


def default_cells(n: int) -> int:
    """Cells of an inverted file over n vectors: 4·√n rounded to a power of two, with enough training points each."""
    wanted = 1 << round(math.log2(4 * math.sqrt(max(1, n))))
    enough = max(1, n // FEWEST_PER_CELL)
    return min(wanted, 1 << (enough.bit_length() - 1))


def pq_bytes(dim: int) -> int:
    """Bytes of a product-quantised vector: a byte for 8 channels, or for a few more where 8 don't divide."""
    return max(m for m in range(1, max(1, dim // 8) + 1) if dim % m == 0)


def vector_bytes(dim: int, code: Code) -> int:
    """Bytes of one stored vector."""
    return {"flat": FLOAT * dim, "sq8": dim, "pq": pq_bytes(dim)}[code]


def measure_rates(kernel: Kernel, *, dim: int, k: int, read_bytes: float = 5e8, rows: int = 16384) -> Rates:
    """Rates of this process, with the threads it has, by short real searches over random unit vectors (1 to 2 s).

    As many queries at once as the search takes: FAISS is several times slower with a few hundred.
    """
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((rows, dim), dtype=np.float32)
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)
    block, queries = kernel.load(vectors), vectors[:QUERIES].astype(np.float32)
    products = _best(lambda: kernel.top_k(queries, block, min(rows, k + SLACK)))
    nearest = _best(lambda: kernel.top_k(queries, block, 1))
    wide = kernel.load(vectors.astype(np.float32))  # as an inverted file keeps them: nothing to convert
    scan = _best(lambda: kernel.top_k(queries[:1], wide, min(rows, k + SLACK)), 5)
    few = vectors[: max(k + SLACK + 1, rows // 8)]  # so few that the products take a small part of the time
    share, asked, few_block = ExactShare(_InMemory(few), 0, len(few), kernel, 2**31, k), few[:QUERIES], kernel.load(few)
    whole = _best(lambda: share.best(asked))
    part = _best(lambda: kernel.top_k(asked.astype(np.float32), few_block, k + SLACK))
    flop = 2.0 * dim * rows
    return Rates(
        flops=flop * len(queries) / products,
        matmul_flops=flop * len(queries) / nearest,
        scan_flops=flop / scan,
        query_seconds=max(0.0, whole - part) / len(asked),
        read_bytes=read_bytes,
    )


@dataclass(frozen=True)
class _InMemory:
    """A `knn.exact.Database` for probes."""

    vectors: NDArray[np.float16]

    def __len__(self) -> int:
        return len(self.vectors)

    def descriptors(self, first: int, last: int) -> NDArray[np.float16]:
        return self.vectors[first:last]

    def rows(self, kind: str, ids: NDArray[np.int64]) -> NDArray[np.float16]:
        del kind
        return self.vectors[ids]


def _candidates(queries: int, k: int, workers: int) -> float:
    """Bytes of the candidates (id, similarity, padding) that every share gives for every query; none for one share."""
    return queries * k * 16.0 * workers if workers > 1 else 0.0


def _best(fn: Callable[[], object], repeats: int = 2) -> float:
    """Seconds of the fastest of some calls."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        fn()
        times.append(time.perf_counter() - start)
    return min(times)
