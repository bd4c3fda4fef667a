"""How fast evaluation is, as ratios to the published order of work on the same cores in one run.

    python -m tests.benchmarks.evaluate --shards data/camvid11 --weights ../shared/weights/NAME.safetensors
    python -m tests.benchmarks.evaluate … --device cuda --side 320 --classes 27         the torch CRF on a GPU alone

1. the CRF: maps a core-second, one map a call as the published evaluation has it, against both maps of an image;
2. the pool: one process against two;
3. end to end on val: the published order (codes resized to the labels before both probes, then
   the library map by map in a pool whose processes send marginals back), against engine/evaluate.py, which runs the
   backbone as well or reads what the features job has kept.

The published order takes the clusters of the learned probe and the linear probe; ours also counts k-means.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import yaml

from stego_dist.config import Config, load_config
from stego_dist.crf.backends import Backend, winners
from stego_dist.crf.dense import dense_crf
from stego_dist.crf.mean_field import mean_field
from stego_dist.crf.pool import CrfPool
from stego_dist.data.manifest import ShardSet
from stego_dist.data.samples import ShardSamples
from stego_dist.engine.evaluate import evaluate
from stego_dist.engine.inputs import make_backbone, make_segmenter
from stego_dist.engine.setup import make_accelerator
from stego_dist.engine.views import evaluation_views
from stego_dist.metrics.confusion import confusion
from stego_dist.models.backbone import Backbone
from stego_dist.models.segmenter import Segmenter
from tests.benchmarks.timing import rates, table
from tests.tiny import keep_views

Scene = tuple[np.ndarray, list[np.ndarray]]


def scenes(samples: ShardSamples, count: int, side: int, classes: int) -> list[Scene]:
    """Images (H, W, 3), blue first, of a split, with two maps of log-probabilities (K, H, W) of random codes each."""
    found = []
    for i in range(count):
        image, _ = samples.view(i % len(samples), side, "bilinear")
        rng = torch.Generator().manual_seed(i)
        coarse = 2 * torch.randn(2, classes, side // 16, side // 16, generator=rng)
        maps = F.interpolate(coarse, (side, side), mode="bilinear")
        bgr = np.ascontiguousarray(image.flip(0).permute(1, 2, 0).numpy())
        found.append((bgr, list(maps.log_softmax(1).numpy())))
    return found


def crf_table(given: list[Scene], repeats: int) -> str:
    """Maps a core-second of three ways, in one process."""
    torch.set_num_threads(1)
    ways: dict[str, Callable[[Scene], object]] = {
        "library, map by map": lambda scene: [dense_crf(scene[0], log_probs) for log_probs in scene[1]],
        "library, lattices shared": lambda scene: winners("library", *scene),
        "torch, lattices shared": lambda scene: winners("torch", *scene),
    }

    def once(way: Callable[[Scene], object]) -> Callable[[], int]:
        return lambda: 2 * len([way(scene) for scene in given])

    found = rates({name: once(way) for name, way in ways.items()}, repeats)
    base = found["library, map by map"][1]
    rows: list[list[object]] = [[name, cpu, cpu / base] for name, (_, cpu) in found.items()]
    side, classes = given[0][0].shape[0], len(given[0][1][0])
    return table(f"CRF, {side}×{side}, {classes} classes, two maps an image", ["way", "maps/core-s", "ratio"], rows)


def pool_table(given: list[Scene], backend: Backend, images: int) -> str:
    """Maps a second of pools of one and two processes that have started."""
    speeds = []
    for workers in (1, 2):
        pool: CrfPool[int] = CrfPool(workers, backend)
        for _ in range(2 * workers):
            pool.submit(0, *given[0])
        list(pool.finished(everything=True))
        start, done = time.perf_counter(), 0
        for i in range(images):
            pool.submit(i, *given[i % len(given)])
            done += len(list(pool.finished()))
        done += len(list(pool.finished(everything=True)))
        speeds.append(2 * done / (time.perf_counter() - start))
        pool.close()
    rows: list[list[object]] = [[n, speed, speed / speeds[0]] for n, speed in zip((1, 2), speeds)]
    return table(f"Pool, {backend}", ["processes", "maps/s", "ratio"], rows)


def published_refine(image: np.ndarray, log_probs: np.ndarray) -> np.ndarray:
    """What a process of the published pool gives back: all marginals."""
    return dense_crf(image, log_probs)


@torch.no_grad()
def published_order(
    config: Config, samples: ShardSamples, ids: range, backbone: Backbone, segmenter: Segmenter, crf: bool, workers: int
) -> int:
    """Codes of image and mirror image one after the other, resized to the label; probes and CRF at its size."""
    assert segmenter.linear is not None
    classes = samples.shard_set.num_classes or 0
    counts = [torch.zeros(rows, classes, dtype=torch.int64) for rows in (segmenter.num_clusters, classes)]
    centres = F.normalize(segmenter.cluster.centres, dim=1)
    pool = get_context("spawn").Pool(workers) if crf else None
    try:
        for _, images, labels in evaluation_views(config, samples, ids):
            assert labels is not None
            first = segmenter.head(backbone(images))
            second = segmenter.head(backbone(images.flip(-1)))
            code = F.interpolate((first + second.flip(-1)) / 2, labels.shape[-2:], mode="bilinear", align_corners=False)
            linear = segmenter.linear(code).log_softmax(1)
            cluster = (2 * torch.einsum("bchw,kc->bkhw", F.normalize(code, dim=1), centres)).log_softmax(1)
            for number, log_probs in enumerate((cluster, linear)):
                if pool is not None:
                    bgr = np.ascontiguousarray(images.flip(1).permute(0, 2, 3, 1).numpy())
                    log_probs = torch.from_numpy(np.stack(pool.starmap(published_refine, zip(bgr, log_probs.numpy()))))
                signed = labels.to(torch.int16)
                signed[labels == 255] = -1
                counts[number] += confusion(log_probs.argmax(1), signed, *counts[number].shape)
    finally:
        if pool is not None:
            pool.terminate()
    return len(ids)


def end_to_end(config: Config, weights: str, workers: int, repeats: int) -> str:
    """Images a second of the published order and of ours, without and with the CRF on both maps."""
    torch.set_num_threads(workers)
    shard_set = ShardSet.open(config.data.shards)
    backbone = make_backbone(config)
    segmenter = make_segmenter(config, backbone.dim, shard_set).eval()
    segmenter.kmeans.normal_(generator=torch.Generator().manual_seed(0))
    samples = ShardSamples(shard_set, config.data.eval_split)
    ids = range(len(samples))

    keep_views(config)

    def ours(crf: str, backend: str, precision: str, features: str = "online") -> Callable[[], int]:
        wanted = {"crf": crf, "crf_backend": backend, "clusters": "learned", "panels": 0, "features": features}
        settings = config.eval.model_copy(update=wanted)
        train = config.train.model_copy(update={"precision": precision})
        changed = config.model_copy(update={"eval": settings, "train": train})
        return lambda: evaluate(changed, make_accelerator(), segmenter, backbone).results["images"]

    def theirs(crf: bool) -> Callable[[], int]:
        return lambda: published_order(config, samples, ids, backbone, segmenter, crf, workers)

    rows: list[list[object]] = []
    for crf in ("none", "both"):
        ways = {"published order": theirs(crf == "both"), "this evaluation": ours(crf, "library", "fp32")}
        if crf == "both":
            ways["this evaluation, torch CRF"] = ours(crf, "torch", "fp32")
            ways["this evaluation, torch CRF, kept features"] = ours(crf, "torch", "fp32", "bank")
        else:
            ways["this evaluation, bf16"] = ours(crf, "library", "bf16")
            ways["this evaluation, kept features"] = ours(crf, "library", "fp32", "bank")
        found = rates(ways, repeats)
        base = found["published order"][0]
        rows += [[name, crf, wall, wall / base] for name, (wall, _) in found.items()]
    title = f"End to end, {len(ids)} images of {config.eval.resolution}², {workers} cores, {Path(weights).stem}"
    return table(title, ["way", "CRF", "images/s", "ratio"], rows)


def gpu_table(given: list[Scene], device: str, repeats: int) -> str:
    """Images a second of the torch CRF, both maps and one, for batches of several sizes."""
    rows: list[list[object]] = []
    for batch in (1, 4, 16):
        some = [given[i % len(given)] for i in range(batch)]
        images = torch.from_numpy(np.stack([image for image, _ in some])).to(device)
        maps = [torch.from_numpy(np.stack([m[k] for _, m in some])).to(device) for k in (0, 1)]

        def work(maps: list[torch.Tensor], images: torch.Tensor = images) -> Callable[[], int]:
            def once() -> int:
                mean_field(images, maps)
                torch.cuda.synchronize()
                return len(images)

            return once

        work(maps)()
        found = rates({"two": work(maps), "one": work(maps[:1])}, repeats)
        rows.append([batch, found["one"][0], found["two"][0]])
    return table(f"CRF on {torch.cuda.get_device_name()}", ["batch", "images/s, a map", "images/s, two maps"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", required=True, help="a labelled shard set with a split val")
    parser.add_argument("--weights", default="random", help="of ViT-Ti/16")
    parser.add_argument("--side", type=int, default=448)
    parser.add_argument("--classes", type=int, default=11, help="of the maps of the CRF alone")
    parser.add_argument("--images", type=int, default=24, help="that go through the pool")
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    args = parser.parse_args()
    samples = ShardSamples(ShardSet.open(args.shards), "val")
    given = scenes(samples, max(2, min(4, args.images)), args.side, args.classes)
    if args.device == "cuda":
        print(gpu_table(given, args.device, args.repeats))
        return
    print(crf_table(given, args.repeats))
    for backend in ("library", "torch"):
        print(pool_table(given, backend, args.images))
    tree = {
        "name": "benchmark",
        "data": {"shards": args.shards, "resolution": args.side},
        "backbone": {"name": "vit_tiny_patch16_224", "weights": args.weights},
        "eval": {"resolution": args.side, "crf_workers": args.cores},
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.yaml"
        path.write_text(yaml.safe_dump({**tree, "features": {"dir": f"{folder}/features"}}), "utf-8")
        print(end_to_end(load_config(path), args.weights, args.cores, args.repeats))


if __name__ == "__main__":
    main()
