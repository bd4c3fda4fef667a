"""What `stego-dist plan` estimates, against real runs: the exact search, and embedding with the bank.

    python tests/benchmarks/plan.py [--descriptors 10000 100000 1000000] [--images 1000 10000] [--workers 2]

Search: clustered descriptors 384 wide, k 30. One process answers all queries, or --queries drawn ones where there are
more; the job on Ray (`knn build`'s own function) does all of them up to --job descriptors, less the time that it takes
over 64 descriptors, which is the workers' start. Bank: ViT-Ti/16 at 224 pixels over copies of noise images, by the
job on Ray, less its start. Rates are measured once, by the plan's own probes.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from stego_dist.config import Config, load_config
from stego_dist.data.card import load_card
from stego_dist.data.pack import build
from stego_dist.data.plan import BuildOptions
from stego_dist.engine.inputs import open_store
from stego_dist.features.store import FeatureStore, ShardFeatures, write_manifest, write_shard
from stego_dist.jobs.cluster import ray_cluster
from stego_dist.jobs.embed import embed
from stego_dist.jobs.knn import build_table
from stego_dist.jobs.plan import estimate
from stego_dist.jobs.probes import measure_config, open_samples
from stego_dist.knn.cost import exact_cost, measure_rates
from stego_dist.knn.kernels import kernel
from stego_dist.knn.search import search
from stego_dist.knn.threads import one_thread
from tests.benchmarks.timing import table
from tests.knn.database import on_grid

DIM, K, SHARD = 384, 30, 50_000
FINGERPRINT = {"made for": "a benchmark"}
START = 64
"""Descriptors or images of a job whose time is its workers' start."""
Row = list[object]


def config_at(root: Path, **features: object) -> Config:
    """A configuration with everything below `root`."""
    root.mkdir(parents=True, exist_ok=True)
    path = root / "config.yaml"
    path.write_text(f"name: plan\ndata: {{shards: {root / 'shards'}}}\nknn: {{k: {K}, method: exact}}\n")
    backbone = ["backbone.name=vit_tiny_patch16_224", "backbone.weights=random"]
    return load_config(
        path, [f"features.dir={root / 'features'}", *backbone, *(f"{k}={v}" for k, v in features.items())]
    )


def descriptors_at(config: Config, count: int) -> FeatureStore:
    """A feature store of clustered descriptors, a hundred about each of random centres."""
    root, rng, names = Path(config.features.dir), np.random.default_rng(0), []
    centres = rng.standard_normal((max(1, count // 100), DIM))
    for first in range(0, count, SHARD):
        size = min(SHARD, count - first)
        near = centres[rng.integers(0, len(centres), size)] + 0.5 * rng.standard_normal((size, DIM))
        names.append(f"train-{len(names):05d}")
        features = ShardFeatures(on_grid(near), np.arange(first, first + size), None, None)  # type: ignore[arg-type]
        write_shard(root, names[-1], features, FINGERPRINT)
    write_manifest(root, names, FINGERPRINT)
    return open_store(config, FINGERPRINT)


def seconds(fn: Callable[[], object]) -> float:
    """Wall time of a call."""
    start = time.perf_counter()
    fn()
    return time.perf_counter() - start


def search_rows(root: Path, sizes: list[int], queries: int, job: int, workers: int) -> list[Row]:
    """Estimate and truth of the search in one process, and of the job."""
    by, rows = kernel("auto"), []
    memory = config_at(root / "any").knn.memory_gb * 1e9
    with one_thread():
        rates = measure_rates(by, dim=DIM, k=K)
    start = job_seconds(root, START, workers) if job else 0.0
    for n in sizes:
        store = descriptors_at(config_at(root / f"one{n}"), n)
        asked = np.sort(np.random.default_rng(1).choice(n, min(n, queries), replace=False))
        with one_thread():
            real = seconds(lambda: search(query_ids=asked, database=store, k=K, memory=int(memory), by=by))  # noqa: B023
        cost = exact_cost(n, DIM, k=K, workers=1, rates=rates, memory=memory, queries=len(asked))
        rows.append(
            [f"search, {n:,} × {len(asked):,} queries, one process, s", cost.seconds, real, cost.seconds / real]
        )
        if n <= job:
            real = job_seconds(root, n, workers) - start
            cost = exact_cost(n, DIM, k=K, workers=workers, rates=rates, memory=memory)
            rows.append([f"search, {n:,}, job of {workers} workers, s", cost.seconds, real, cost.seconds / real])
    return rows


def job_seconds(root: Path, n: int, workers: int) -> float:
    """Wall time of the job that writes the table of n descriptors."""
    config = config_at(root / f"job{n}", **{"features.workers": workers})
    descriptors_at(config, n)
    return seconds(lambda: build_table(config, FINGERPRINT))


def bank_rows(root: Path, sizes: list[int], workers: int) -> list[Row]:
    """Estimate and truth of the bank's bytes and of the time of embedding with it."""
    rows: list[Row] = []
    _, start = embedded(root, START, workers)
    for n in sizes:
        config, real = embedded(root, n, workers)
        assumed = (
            "pack", "sample_bytes", "train", "knn_flops", "knn_matmul_flops", "knn_scan_flops", "knn_query_seconds",
        )  # fmt: skip
        facts, figures, _ = measure_config(config, open_samples(config), "none", 8, dict.fromkeys(assumed, 1.0))
        stages = estimate(n, replace(facts, knn_method="exact"), figures, workers)["stages"]
        held = sum(file.stat().st_size for file in Path(config.features.dir).glob("*.bank.npy"))
        took, real = stages["embedding"]["seconds"] + stages["bank"]["seconds"], real - start
        rows.append(
            [f"bank, {n:,} images, MB", stages["bank"]["bytes"] / 1e6, held / 1e6, stages["bank"]["bytes"] / held]
        )
        rows.append([f"embedding, {n:,} images, {workers} workers, s", took, real, took / real])
    return rows


def embedded(root: Path, n: int, workers: int) -> tuple[Config, float]:
    """A configuration whose bank was made of n images, and the seconds that took."""
    config = config_at(root / f"bank{n}", **{"features.workers": workers})
    source, rng = root / f"images{n}", np.random.default_rng(0)
    (source / "imgs" / "train").mkdir(parents=True)
    for i in range(n):
        path = source / "imgs" / "train" / f"{i:06d}.jpg"
        if i < START:
            small = Image.fromarray(rng.integers(0, 256, (15, 20, 3), dtype=np.uint8))
            small.resize((320, 240), Image.Resampling.BICUBIC).save(path, quality=90)
        else:
            path.hardlink_to(path.with_name(f"{i % START:06d}.jpg"))
    build(load_card("folder"), source, Path(config.data.shards), BuildOptions(), ["train"])
    return config, seconds(lambda: embed(config, bank=True))


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--descriptors", type=int, nargs="*", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--queries", type=int, default=20_000, help="at most so many in one process")
    parser.add_argument("--job", type=int, default=100_000, help="descriptors up to which the job is run; 0: never")
    parser.add_argument("--images", type=int, nargs="*", default=[1000, 10_000])
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, ray_cluster():
        rows = search_rows(Path(folder), args.descriptors, args.queries, args.job, args.workers)
        rows += bank_rows(Path(folder), args.images, args.workers)
    print(table("The plan's estimates", ["what", "estimate", "real", "estimate / real"], rows))


if __name__ == "__main__":
    main()
