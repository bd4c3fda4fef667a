"""Exact and approximate search: time and peak memory beside one FAISS call and the published blockwise product.

    python -m tests.benchmarks.knn --sizes 10000 100000 --workers
    python -m tests.benchmarks.knn --sizes 1000000 --queries 20000 --ivf

Descriptors are clustered, as real ones are: a centre for every 200 (standard normal in D dimensions), noise of 0.7 of
its size around it, normalised, float16; written as a feature store in shards of 10,000. Every row is a process of its
own with the threads that OMP_NUM_THREADS says; peak memory is the growth of its resident set over what it holds after
imports. Methods take turns; the median of `--repeats` is printed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from stego_dist.features.store import FeatureStore, ShardFeatures, write_manifest, write_shard
from tests.benchmarks.timing import table

FEATURES = {"shards": "benchmark"}
SHARD = 10_000


def make_store(root: Path, n: int, dim: int) -> FeatureStore:
    """Clustered descriptors on disk."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((max(2, n // 200), dim), dtype=np.float32)
    names = []
    for first in range(0, n, SHARD):
        size = min(SHARD, n - first)
        x = centres[rng.integers(0, len(centres), size)] + 0.7 * rng.standard_normal((size, dim), dtype=np.float32)
        x /= np.linalg.norm(x, axis=1, keepdims=True)
        names.append(f"train-{first // SHARD:05d}")
        features = ShardFeatures(x.astype(np.float16), np.arange(first, first + size), None, None)
        write_shard(root, names[-1], features, FEATURES)
    write_manifest(root, names, FEATURES)
    return FeatureStore(root, FEATURES, "")


def anonymous() -> int:
    """Resident bytes that no file backs."""
    text = Path("/proc/self/status").read_text()
    return int(text.split("RssAnon:")[1].split()[0]) * 1024


class Peak:
    """Largest anonymous resident set while it is open, over what there was at the start."""

    def __enter__(self) -> Peak:
        self.start, self.most, self.open = anonymous(), 0, True
        self.thread = threading.Thread(target=self._watch)
        self.thread.start()
        return self

    def _watch(self) -> None:
        while self.open:
            self.most = max(self.most, anonymous() - self.start)
            time.sleep(0.01)

    def __exit__(self, *_: object) -> None:
        self.open = False
        self.thread.join()


def one(root: Path, method: str, queries: int, k: int, memory: float, ivf: Path | None) -> dict[str, object]:
    """Run in a process of its own."""
    import faiss
    import torch

    from stego_dist.knn.exact import ExactShare
    from stego_dist.knn.ivf import IvfShare, build_share, draw_ids, recall, train_index, training_ids
    from stego_dist.knn.kernels import FaissKernel

    store = FeatureStore(root, FEATURES, "")
    n = len(store)
    ids = draw_ids(n, queries, 1)
    asked = store.rows("descriptors", ids)
    faiss.knn(np.zeros((8, 8), np.float32), np.zeros((8, 8), np.float32), 2)  # libraries are loaded
    _ = torch.ones(8, 8) @ torch.ones(8, 8)
    report: dict[str, object] = {}

    def ours() -> np.ndarray:
        return ExactShare(store, 0, n, FaissKernel(), int(memory * 1e9), k).best(asked).ids

    def one_call() -> np.ndarray:
        database = np.ascontiguousarray(store.descriptors(0, n), dtype=np.float32)
        return faiss.knn(asked.astype(np.float32), database, k, metric=faiss.METRIC_INNER_PRODUCT)[1]

    def published() -> np.ndarray:
        feats = torch.from_numpy(store.descriptors(0, n)).float()
        step = n // 16
        wanted = torch.from_numpy(asked).float()
        return torch.cat([(part @ feats.T).topk(k).indices for part in torch.split(wanted, step)]).numpy()

    def inverted() -> np.ndarray:
        assert ivf is not None
        share = IvfShare(ivf, store, 0, n, int(memory * 1e9), k, "flat")
        truth = np.load(ivf.with_suffix(".truth.npy"))
        for nprobe in (2**i for i in range(12)):
            start = time.perf_counter()
            found = share.best(asked, nprobe).ids
            report["search_s"], report["nprobe"] = time.perf_counter() - start, nprobe
            report["recall@7"], report[f"recall@{k - 1}"] = (recall(found, truth, r) for r in (7, k - 1))
            if recall(found[:256], truth[:256], 7) >= 0.95:
                break
        return found

    def building() -> np.ndarray:
        assert ivf is not None
        start = time.perf_counter()
        train_index(store.rows("descriptors", training_ids(n, 0)), n, "flat", 0, ivf.with_suffix(".trained"))
        report["train_s"] = time.perf_counter() - start
        build_share(ivf.with_suffix(".trained"), store, 0, n, ivf)
        return ids

    run: Callable[[], np.ndarray] = {
        "ours": ours, "one FAISS call": one_call, "published": published, "IVF": inverted, "IVF building": building
    }[method]  # fmt: skip
    with Peak() as peak:
        start = time.perf_counter()
        found = run()
        report["seconds"] = time.perf_counter() - start
    if method == "ours" and ivf is not None:
        np.save(ivf.with_suffix(".truth.npy"), found)
    return {**report, "memory": peak.most}


def in_process(*arguments: object) -> dict[str, float]:
    """`one` in a process of its own."""
    command = [sys.executable, "-m", "tests.benchmarks.knn", "--one", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def compare(root: Path, n: int, a: argparse.Namespace) -> list[list[object]]:
    """Rows of the table for n descriptors."""
    queries = min(n, a.queries)
    methods = ["one FAISS call", "ours"]
    if n // 16 * n * 4 < 6e9:  # what the published block needs fits into this machine
        methods.append("published")
    ivf = root.parent / "whole.index"
    found: dict[str, list[dict[str, float]]] = {m: [] for m in methods}
    for _ in range(a.repeats):
        for method in methods:
            found[method].append(in_process(root, method, queries, a.k, a.memory_gb, ivf))
    median = {m: statistics.median(r["seconds"] for r in runs) for m, runs in found.items()}
    rows: list[list[object]] = []

    def row(asked: object, method: str, seconds: float, memory: float, note: str = "") -> None:
        relative = seconds / median["one FAISS call"] if asked else ""
        rows.append([f"{n:,}", asked, method, seconds, relative, f"{memory / 1e6:,.0f}", note])

    for method, runs in found.items():
        row(f"{queries:,}", method, median[method], max(r["memory"] for r in runs))
    if a.ivf:
        built = in_process(root, "IVF building", queries, a.k, a.memory_gb, ivf)
        row("", "IVF building", built["seconds"], built["memory"], f"training {built['train_s']:.0f} s of it")
        searched = in_process(root, "IVF", queries, a.k, a.memory_gb, ivf)
        recalls = ", ".join(f"{name} {searched[name]:.3f}" for name in ("recall@7", f"recall@{a.k - 1}"))
        gain = f"{median['ours'] / searched['search_s']:.0f}× as fast as ours"
        note = f"{searched['nprobe']} lists, {recalls}; {gain}"
        row(f"{queries:,}", "IVF", searched["search_s"], searched["memory"], note)
    return rows


def workers(root: Path, n: int) -> list[list[object]]:
    """The job on one and on two Ray workers of a thread each, start of the workers included."""
    from stego_dist.jobs.cluster import ray_cluster
    from stego_dist.jobs.knn import build_table
    from tests.tiny import config_at

    seconds = {}
    with ray_cluster():
        for count in (1, 2):
            config = config_at(root.parent, f"features.workers={count}", "knn.k=30", "knn.method=exact")
            start = time.perf_counter()
            build_table(config, FEATURES, overwrite=True)
            seconds[count] = time.perf_counter() - start
    return [[f"{n:,}", count, s, seconds[1] / s] for count, s in seconds.items()]


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--queries", type=int, default=10**9, help="sampled queries at most (default: all)")
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--k", type=int, default=30)
    parser.add_argument("--memory-gb", type=float, default=2.0)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--ivf", action="store_true", help="the inverted file too")
    parser.add_argument("--workers", action="store_true", help="one Ray worker against two too")
    parser.add_argument("--one", nargs=6, help=argparse.SUPPRESS)
    a = parser.parse_args()
    if a.one:
        root, method, queries, k, memory, ivf = a.one
        print(json.dumps(one(Path(root), method, int(queries), int(k), float(memory), Path(ivf))))
        return
    rows, pairs = [], []
    for n in a.sizes:
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder) / "features"
            make_store(root, n, a.dim)
            rows += compare(root, n, a)
            if a.workers:
                pairs += workers(root, n)
    columns = ["descriptors", "queries", "method", "seconds", "of one call", "peak MB", ""]
    print(table(f"{a.k} nearest, D = {a.dim}, budget {a.memory_gb:g} GB", columns, rows))
    if pairs:
        print(table("The job on Ray workers of one thread", ["descriptors", "workers", "seconds", "speed-up"], pairs))


if __name__ == "__main__":
    main()
