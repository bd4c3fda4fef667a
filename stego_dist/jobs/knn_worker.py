"""What a worker does for the neighbour table: pure functions of (shard, share), which don't know Ray.

A *share* is a run of ids of the database that a worker keeps in memory while it answers the queries of shard after
shard. Tasks: `Search` writes what a share has for a shard's queries, `Merge` makes the shard's rows of the table; for
the inverted file `Train` finds its lists on a sample, `Build` fills a share of it and tries it on sampled queries.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from stego_dist.config import Config
from stego_dist.features.store import FeatureStore
from stego_dist.knn.candidates import Candidates
from stego_dist.knn.cost import SAMPLED, TUNED, default_cells
from stego_dist.knn.exact import ExactShare
from stego_dist.knn.ivf import IvfShare, build_share, draw_ids, train_index, training_ids
from stego_dist.knn.kernels import Ids, Stored, kernel
from stego_dist.knn.ranking import Best, Neighbours, neighbours
from stego_dist.knn.search import own_products
from stego_dist.knn.table import REMEDY, is_done, knn_dir, knn_fingerprint, write_part
from stego_dist.rundir import Fingerprint, atomic_path, digest, writing_to

QUERIES = 4096
"""Queries that an inverted file answers together."""


@dataclass(frozen=True)
class Search:
    """Answer the queries of a shard from a share of the database."""

    shard: int
    share: int


@dataclass(frozen=True)
class Merge:
    """Write a shard's rows of the table from what all shares have found."""

    shard: int


@dataclass(frozen=True)
class Train:
    """Find the lists of the inverted file."""


@dataclass(frozen=True)
class Build:
    """Fill a share of the inverted file, and search the sampled queries exactly and by more and more lists."""

    share: int


Task = Search | Merge | Train | Build


@dataclass(frozen=True)
class Done:
    """A finished task and how many queries it answered."""

    task: Task
    queries: int
    by: str
    """Who multiplied."""


@dataclass(frozen=True)
class Job:
    """What all workers of a table share."""

    config: Config
    features: Fingerprint
    method: str
    shares: tuple[range, ...]
    store: FeatureStore
    """The descriptors; it travels to the workers, which need not open and check it again."""
    nprobe: int = 0
    """Lists that a query looks into, for the inverted file."""

    @property
    def root(self) -> Path:
        """The table's folder."""
        return knn_dir(self.config)

    @cached_property
    def fingerprint(self) -> Fingerprint:
        """The table's."""
        return knn_fingerprint(self.config, self.features)

    @cached_property
    def candidates(self) -> Candidates:
        """What shares have found."""
        return Candidates(self.root, self.fingerprint)

    @property
    def trained(self) -> Path:
        """The empty inverted file."""
        return ivf_dir(self.root, self.fingerprint) / "trained.index"

    def index(self, share: int) -> Path:
        """The inverted file of a share."""
        span = self.shares[share]
        return self.trained.with_name(f"{span.start}-{span.stop}.index")

    def trial(self, share: int) -> Path:
        """What a share has found for the sampled queries."""
        return self.index(share).with_suffix(".npz")

    def shard_ids(self, shard: int) -> range:
        """Ids of a shard's samples."""
        return range(int(self.store.starts[shard]), int(self.store.starts[shard + 1]))

    def sampled_ids(self) -> Ids:
        """The sampled queries, in random order."""
        ids = draw_ids(len(self.store), SAMPLED + TUNED, self.config.seed, 2)
        return np.random.default_rng([self.config.seed, 3]).permutation(ids)

    def probes(self) -> list[int]:
        """Numbers of lists that are tried."""
        most = default_cells(len(self.store))
        return [2**i for i in range(most.bit_length()) if 2**i <= most]


def ivf_dir(root: Path, fingerprint: Fingerprint) -> Path:
    """Where the inverted file of a table lies while it is searched; another table's is never taken for it."""
    return root / f"ivf-{digest(fingerprint)[:12]}"


def make_worker(job: Job) -> Callable[[Task], Done]:
    """Runs in a worker: what does the tasks; it keeps the share that it searched last."""
    worker = _Worker(job)

    def run(task: Task) -> Done:
        queries = 0
        with writing_to(job.root, "Then start the command again: it goes on from what is finished."):
            match task:
                case Search():
                    queries = worker.search(task)
                case Merge():
                    queries = worker.merge(task.shard)
                case Train():
                    worker.train()
                case Build():
                    worker.build(task.share)
        return Done(task, queries, worker.kernel.name)

    return run


class _Worker:
    def __init__(self, job: Job) -> None:
        self.job, self.knn = job, job.config.knn
        self.memory = int(self.knn.memory_gb * 1e9)
        self.sources = job.store.sources if self.knn.exclude_same_image else None
        self.kernel = kernel(self.knn.backend)
        self._share: tuple[int, ExactShare | IvfShare] | None = None

    def search(self, task: Search) -> int:
        """Write the candidates of a shard from a share; returns the number of queries."""
        ids = self.job.shard_ids(task.shard)
        share = self._open(task.share)

        def pieces() -> Iterator[Best]:
            step = QUERIES if isinstance(share, IvfShare) else share.sizes.queries
            for first in range(ids.start, ids.stop, step):
                some = range(first, min(first + step, ids.stop))
                queries = self.job.store.descriptors(some.start, some.stop)
                sources = None if self.sources is None else self.sources[some.start : some.stop]
                if isinstance(share, IvfShare):
                    yield share.best(queries, self.job.nprobe, sources)
                else:
                    yield share.best(queries, sources)

        name = self.job.store.shards[task.shard]
        self.job.candidates.write(name, self.job.shares[task.share], pieces(), len(ids), self.knn.k)
        return len(ids)

    def merge(self, shard: int) -> int:
        """Write a shard's rows of the table; returns the number of queries."""
        job, ids, name = self.job, self.job.shard_ids(shard), self.job.store.shards[shard]
        if not is_done(job.root, name, job.fingerprint, REMEDY):  # it is where a worker died before it could say so
            parts = []
            for start, best in job.candidates.merged(name, job.shares):
                some = np.arange(ids.start + start, ids.start + start + len(best.ids))
                own = own_products(job.store.descriptors(int(some[0]), int(some[-1]) + 1))
                parts.append(neighbours(some, own, best, self.knn.min_similarity))
            whole = Neighbours(np.concatenate([p.ids for p in parts]), np.concatenate([p.similarities for p in parts]))
            write_part(job.root, name, whole, job.fingerprint)
        job.candidates.drop(name, job.shares)
        return len(ids)

    def train(self) -> None:
        """Write the empty inverted file."""
        job = self.job
        sample = job.store.rows("descriptors", training_ids(len(job.store), job.config.seed))
        train_index(sample, len(job.store), self.knn.ivf_code, job.config.seed, job.trained)

    def build(self, share: int) -> None:
        """Write a share of the inverted file, and its trial on the sampled queries."""
        job, span = self.job, self.job.shares[share]
        if not job.index(share).exists():
            build_share(job.trained, job.store, span.start, span.stop, job.index(share))
        ids = job.sampled_ids()
        queries: Stored = job.store.rows("descriptors", ids)
        sources = None if self.sources is None else self.sources[ids]
        found = {"exact": self._exact(span).best(queries, sources)}
        tuned, tuned_sources = queries[:TUNED], None if sources is None else sources[:TUNED]
        ivf = self._ivf(share)
        found |= {str(nprobe): ivf.best(tuned, nprobe, tuned_sources) for nprobe in job.probes()}
        arrays: dict[str, Any] = {f"{name}_similarities": best.similarities for name, best in found.items()}
        arrays |= {f"{name}_ids": best.ids for name, best in found.items()}
        with atomic_path(job.trial(share)) as tmp, tmp.open("wb") as file:
            np.savez(file, **arrays)

    def _open(self, share: int) -> ExactShare | IvfShare:
        if self._share is None or self._share[0] != share:
            self._share = None  # its memory is free before the other is read
            made = self._ivf(share) if self.job.method == "ivf" else self._exact(self.job.shares[share])
            self._share = share, made
        return self._share[1]

    def _exact(self, span: range) -> ExactShare:
        return ExactShare(self.job.store, span.start, span.stop, self.kernel, self.memory, self.knn.k, self.sources)

    def _ivf(self, share: int) -> IvfShare:
        span = self.job.shares[share]
        return IvfShare(
            self.job.index(share), self.job.store, span.start, span.stop, self.memory, self.knn.k, self.knn.ivf_code,
            self.sources,
        )  # fmt: skip
