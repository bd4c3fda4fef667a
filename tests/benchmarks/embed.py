"""Crops embedded a second by the job, on one worker and on several, against a bare loop.

    python tests/benchmarks/embed.py configs/camvid11_vitti16.yaml data.resolution=224 [--shards 8] [--workers 2]
        [--precisions fp32 bf16] [--compile] [--repeats 3]

Bare: one loop that decodes the same crops and runs the same backbone in the same batches, keeps the bank's float16 in
memory and writes nothing. `at work` are the rates of the workers while they have shards; `whole job` counts from the
start of its workers (importing, loading) on a cluster that runs. Medians of what was taken in turns. OMP_NUM_THREADS
holds for both sides.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import torch

from stego_dist.config import Config, load_config
from stego_dist.data.manifest import ShardSet
from stego_dist.data.samples import ShardSamples
from stego_dist.engine.inputs import AUTOCAST, features_fingerprint, make_backbone
from stego_dist.jobs.cluster import ray_cluster, run_on_workers
from stego_dist.jobs.embed import Embedded, _compiled, _make_worker
from stego_dist.models.backbone import descriptors
from tests.benchmarks.timing import table


def bare(config: Config, shards: int) -> float:
    """Crops a second of the loop."""
    samples = ShardSamples(ShardSet.open(config.data.shards), config.data.train_split)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    backbone = make_backbone(config).to(device)
    run = _compiled(config, backbone, device) if config.features.compile else backbone
    dtype, size, kept = AUTOCAST[config.features.precision], config.features.batch_size, []
    start = time.perf_counter()
    for first, last in zip(samples.shard_starts[:shards], samples.shard_starts[1:]):
        for i in range(first, last, size):
            views = samples.views(range(i, min(i + size, last)), config.data.resolution, config.data.image_resize)
            with torch.autocast(device.type, dtype, enabled=dtype is not None):
                feats = run(torch.stack([image for image, _ in views]).to(device))
            kept.append((descriptors(feats).cpu(), feats.half().cpu()))
    return sum(len(pooled) for pooled, _ in kept) / (time.perf_counter() - start)


def job(config: Config, shards: int, workers: int) -> tuple[float, float]:
    """Crops a second of the job with the bank: at work, and in all."""
    shard_set = ShardSet.open(config.data.shards)
    fingerprint = features_fingerprint(config, shard_set, make_backbone(config))
    done: dict[str, list[Embedded]] = defaultdict(list)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        here = config.model_copy(update={"features": config.features.model_copy(update={"dir": folder})})
        for shard in run_on_workers(
            lambda: _make_worker(here, fingerprint, True), range(shards), workers=workers,
            gpus=config.features.gpus_per_worker,
        ):  # fmt: skip
            done[shard.worker].append(shard)
    seconds = time.perf_counter() - start
    at_work = sum(sum(s.crops for s in mine) / sum(s.seconds for s in mine) for mine in done.values())
    return at_work, sum(s.crops for mine in done.values() for s in mine) / seconds


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--shards", type=int, default=8)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--precisions", nargs="+", default=["fp32", "bf16"])
    parser.add_argument("--compile", action="store_true", help="measure torch.compile too")
    args = parser.parse_intermixed_args()
    rows: list[list[object]] = []
    for precision in args.precisions:
        for compiled in (False, True) if args.compile else (False,):
            settings = [*args.overrides, f"features.precision={precision}", f"features.compile={compiled}".lower()]
            config = load_config(args.config, settings)
            turns = []
            with ray_cluster():
                for _ in range(args.repeats):
                    loop = bare(config, args.shards)
                    one, one_in_all = job(config, args.shards, 1)
                    several, several_in_all = job(config, args.shards, args.workers)
                    turns.append([loop, one, one / loop, several, several / one, one_in_all, several_in_all])
            rows.append([precision + (", compiled" if compiled else ""), *map(statistics.median, zip(*turns))])
    n = args.workers
    columns = ["backbone", "bare, crops/s", "1 worker at work", "of bare", f"{n} workers at work", f"{n} workers × one",
               "1 worker, whole job", f"{n} workers, whole job"]  # fmt: skip
    print(table(f"Embedding ({torch.get_num_threads()} threads a worker)", columns, rows))


if __name__ == "__main__":
    main()
