"""The global neighbour table: the database is dealt to Ray workers in shares, the queries of every shard visit all.

A shard's rows depend on the descriptors alone (knn/exact.py), so workers, memory and restarts don't change an exact
table. A job that was killed goes on from the shards that are done and from what shares have found for others.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from stego_dist import console
from stego_dist.config import Config
from stego_dist.console import size
from stego_dist.engine.inputs import open_store
from stego_dist.errors import ConfigError
from stego_dist.features.store import FeatureStore
from stego_dist.jobs.cluster import cluster_for, run_on_workers, worker_count
from stego_dist.jobs.knn_worker import Build, Done, Job, Merge, Search, Task, Train, ivf_dir, make_worker
from stego_dist.knn.cost import (
    ID,
    SAMPLED,
    TUNED,
    choose,
    default_cells,
    exact_cost,
    ivf_cost,
    measure_rates,
    vector_bytes,
)
from stego_dist.knn.exact import FIXED
from stego_dist.knn.ivf import recall
from stego_dist.knn.kernels import Ids, kernel
from stego_dist.knn.ranking import Best, merge, neighbours
from stego_dist.knn.search import own_products, share_spans
from stego_dist.knn.table import (
    choose_method,
    chosen_method,
    is_done,
    knn_dir,
    knn_fingerprint,
    read_rows,
    write_manifest,
)
from stego_dist.rundir import Fingerprint, read_json, write_json

REMEDY = "Pass --overwrite to compute it again."
SURELY_EXACT = 1e14
"""FLOP of an exact search that is not worth an estimate: minutes on two cores."""


def build_table(config: Config, features: Fingerprint, *, overwrite: bool = False) -> Path:
    """Write the neighbour table of the feature store to features.dir/knn; returns the folder.

    Raises UserError: no store, a table of something else, too little memory, a worker's failure.
    """
    store = open_store(config, features)
    root = knn_dir(config)
    if overwrite:
        shutil.rmtree(root, ignore_errors=True)
    wanted = config.features.workers, config.features.gpus_per_worker
    with cluster_for(*wanted):
        workers = worker_count(*wanted)
        method = _method(config, store, workers)
        folder = ivf_dir(root, knn_fingerprint(config, features)) if method == "ivf" else None
        job = Job(config, features, method, _shares(folder, len(store), workers), store)
        todo = [i for i, name in enumerate(store.shards) if not is_done(root, name, job.fingerprint, REMEDY)]
        if not todo and (root / "manifest.json").exists():
            console.say(f"the neighbour table {root} is complete")
            return root
        if method == "ivf":
            job = _prepare(job)
        console.say(
            f"{'exact' if method == 'exact' else 'approximate (IVF)'} search for the {config.knn.k} nearest of each of "
            f"{len(store)} crops in {len(job.shares)} share(s), to {root}"
        )
        if todo:
            _search(job, todo)
    write_manifest(root, store.shards, job.fingerprint, method=method, **(_recall(job) if method == "ivf" else {}))
    job.candidates.drop_all()
    for done_with in root.glob("ivf-*"):
        shutil.rmtree(done_with, ignore_errors=True)
    return root


def _method(config: Config, store: FeatureStore, workers: int) -> str:
    """What knn.method says, or what a table was begun with, or what is estimated to be cheaper."""
    root, n, one = knn_dir(config), len(store), store.descriptors(0, 1)
    dim = one.shape[1]
    if config.knn.method != "auto":
        method: str = config.knn.method
    elif (begun := chosen_method(root)) is not None:
        return begun
    elif 2.0 * dim * n * n < SURELY_EXACT:
        method = "exact"
    else:
        rates = measure_rates(kernel(config.knn.backend), dim=dim, k=config.knn.k)
        known: dict[str, Any] = {
            "k": config.knn.k, "workers": workers, "rates": rates, "memory": config.knn.memory_gb * 1e9,
            "itemsize": one.itemsize,
        }  # fmt: skip
        method, why = choose(exact_cost(n, dim, **known), ivf_cost(n, dim, code=config.knn.ivf_code, **known))
        console.say(f"knn.method=auto takes {method}: {why}")
    if chosen_method(root) is None:
        choose_method(root, method)
    return method


def _shares(folder: Path | None, n: int, workers: int) -> tuple[range, ...]:
    """A share for each worker; those of an inverted file that was begun in `folder` stay as they are."""
    path = folder / "shares.json" if folder else None
    if path is not None and path.exists():
        return tuple(range(*pair) for pair in read_json(path, "the shares of the inverted file", REMEDY))
    shares = tuple(share_spans(n, workers))
    if path is not None:
        write_json(path, [[share.start, share.stop] for share in shares])
    return shares


def _search(job: Job, todo: list[int]) -> None:
    """Search and merge the shards that are not in the table yet."""
    store, shares = job.store, job.shares
    waiting = Counter({shard: len(shares) for shard in todo})
    tasks: list[Task] = []
    for shard in todo:
        open_ = [i for i, share in enumerate(shares) if not job.candidates.done(store.shards[shard], share)]
        waiting[shard] = len(open_)
        tasks += [Search(shard, share) for share in open_] or [Merge(shard)]
    sizes = np.diff(store.starts)
    total = len(shares) * len(store)
    left = sum(int(sizes[shard]) * waiting[shard] for shard in todo)

    def then(done: Done) -> Iterable[Task]:
        if isinstance(done.task, Search):
            waiting[done.task.shard] -= 1
            if not waiting[done.task.shard]:
                return [Merge(done.task.shard)]
        return []

    unit = "queries" if len(shares) == 1 else f"queries × {len(shares)} shares"
    with console.progress("knn", total, unit, total - left) as bar:
        for done in _run(job, tasks, then):
            if isinstance(done.task, Search):
                bar.advance(done.queries, by=done.by)


def _run(job: Job, tasks: list[Task], then: Any = None) -> Any:
    config = job.config
    return run_on_workers(
        partial(make_worker, job), tasks, workers=config.features.workers, gpus=config.features.gpus_per_worker,
        lane=lambda task: getattr(task, "share", None), then=then, name=partial(_name, job),
    )  # fmt: skip


def _name(job: Job, task: Task) -> str:
    match task:
        case Search():
            return f"search of shard {job.store.shards[task.shard]} in share {task.share} of {len(job.shares)}"
        case Merge():
            return f"merging shard {job.store.shards[task.shard]}"
        case Train():
            return "training of the inverted file"
        case Build():
            return f"building share {task.share} of the inverted file"


def _prepare(job: Job) -> Job:
    """Train and build the inverted file, and choose how many lists a query looks into."""
    n, knn = len(job.store), job.config.knn
    _check_memory(job)
    console.say(f"inverted file ({knn.ivf_code}) of {n} descriptors in {default_cells(n)} lists: training, building")
    builds: list[Task] = [Build(i) for i in range(len(job.shares)) if not job.trial(i).exists()]
    if not job.trained.exists():
        builds = [Build(i) for i in range(len(job.shares))]
        tasks: list[Task] = [Train()]
    else:
        tasks, builds = builds, []
    if tasks:
        with console.progress("build", len(tasks) + len(builds), "parts") as bar:
            for _ in _run(job, tasks, lambda done: builds if isinstance(done.task, Train) else []):
                bar.advance()
    ids = job.sampled_ids()[:TUNED]
    truth = _trial(job, "exact", ids)
    for nprobe in job.probes():
        reached = recall(_trial(job, str(nprobe), ids), truth, knn.positives)
        if reached >= knn.recall:
            break
    else:
        console.warn(
            f"knn.recall={knn.recall:g} is not reached: the inverted file finds {reached:.3f} of the {knn.positives} "
            "nearest in all its lists; use knn.ivf_code=flat or sq8, or knn.method=exact"
        )
    console.say(f"a query looks into {nprobe} lists, which find {reached:.3f} of its {knn.positives} nearest")
    return replace(job, nprobe=nprobe)


def _check_memory(job: Job) -> None:
    """Raise ConfigError when a share of the inverted file does not fit into a worker's memory."""
    knn, dim = job.config.knn, job.store.descriptors(0, 1).shape[1]
    each = vector_bytes(dim, knn.ivf_code) + ID
    needed = FIXED + max(map(len, job.shares)) * each + default_cells(len(job.store)) * dim * 4
    if needed > knn.memory_gb * 1e9:
        coarser = {"flat": "knn.ivf_code=sq8 or pq, ", "sq8": "knn.ivf_code=pq, ", "pq": ""}[knn.ivf_code]
        raise ConfigError(
            f"knn.memory_gb={knn.memory_gb:g}: a worker's share of the inverted file ({knn.ivf_code}) takes "
            f"{size(needed)}; use {coarser}more workers, or give more memory"
        )


def _trial(job: Job, name: str, ids: Ids) -> Ids:
    """Neighbours (n, k) of the first sampled queries, from the trials of all shares."""
    parts = []
    for share in range(len(job.shares)):
        with np.load(job.trial(share)) as file:
            parts.append(Best(file[f"{name}_similarities"][: len(ids)], file[f"{name}_ids"][: len(ids)]))
    own = own_products(job.store.rows("descriptors", ids))
    return neighbours(ids, own, merge(parts), job.config.knn.min_similarity).ids


def _recall(job: Job) -> dict[str, Any]:
    """Recall of the finished rows, measured on sampled queries that did not choose the number of lists."""
    knn, ids = job.config.knn, job.sampled_ids()
    ids = ids[TUNED:] if len(ids) > SAMPLED else ids
    place = np.searchsorted(job.store.starts, ids, side="right") - 1
    found = np.stack([read_rows(job.root, job.store.shards[s])[i - job.store.starts[s]] for s, i in zip(place, ids)])
    truth = _trial(job, "exact", job.sampled_ids())[-len(ids) :]
    ranks = sorted({min(knn.positives, knn.k - 1), knn.k - 1})
    values = {f"recall@{k}": round(recall(found, truth, k), 4) for k in ranks}
    shown = ", ".join(f"{name} {value:.3f}" for name, value in values.items())
    console.say(f"of the true neighbours the table holds, measured on {len(ids)} queries: {shown}")
    return {"recall": {**values, "queries": len(ids)}, "lists": default_cells(len(job.store)), "nprobe": job.nprobe}
