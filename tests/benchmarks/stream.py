"""Images a second that training is fed with, against a bare loop over the same files; and reads a second.

    python tests/benchmarks/stream.py ../shared/data/camvid --card camvid11 [--crops five] [--repeats 3]

Bare: a loop that reads files, decodes, resizes and crops as torchvision does, nothing else; for N workers, N processes
with a part each. An anchor costs two images (its neighbour is the second) and a label.
Without a folder, landscapes are drawn.
"""

from __future__ import annotations

import argparse
import io
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from itertools import islice, pairwise
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from stego_dist.data.card import load_card
from stego_dist.data.order import Order, Run
from stego_dist.data.pack import build
from stego_dist.data.plan import BuildOptions
from stego_dist.data.samples import ShardSamples
from stego_dist.data.stream import read_run
from stego_dist.engine.feed import NeighbourDraw, OnlineFeed
from stego_dist.knn.ranking import Neighbours
from stego_dist.knn.table import KnnTable, write_manifest, write_part
from stego_dist.quickstart.landscapes import write_dataset
from tests.benchmarks.timing import rates, table

SIDE, BATCH, WARM = 224, 32, 3


def view(path: Path, resample: Image.Resampling) -> torch.Tensor:
    """Read, decode, resize, crop."""
    with Image.open(io.BytesIO(path.read_bytes())) as image:
        width, height = image.size
        scale = SIDE / min(width, height)
        size = max(SIDE, int(width * scale)), max(SIDE, int(height * scale))
        left, top = round((size[0] - SIDE) / 2), round((size[1] - SIDE) / 2)
        square = image.resize(size, resample).crop((left, top, left + SIDE, top + SIDE))
    return torch.from_numpy(np.array(square))


def bare_part(files: list[tuple[Path, Path | None]], anchors: int, seed: int) -> float:
    """Seconds for so many anchors, neighbours and labels."""
    torch.set_num_threads(1)
    rng = np.random.default_rng(seed)
    order = rng.integers(len(files), size=(anchors, 2))
    start = time.perf_counter()
    for anchor, neighbour in order:
        image, label = files[anchor]
        view(image, Image.Resampling.BILINEAR).permute(2, 0, 1).contiguous()
        view(files[neighbour][0], Image.Resampling.BILINEAR).permute(2, 0, 1).contiguous()
        if label:
            view(label, Image.Resampling.NEAREST)
    return time.perf_counter() - start


def bare(files: list[tuple[Path, Path | None]], anchors: int, workers: int) -> float:
    """Images a second of all processes together; starting them does not count."""
    if workers < 2:
        return 2 * anchors / bare_part(files, anchors, 0)
    with get_context("fork").Pool(workers) as pool:
        pool.starmap(bare_part, [(files, WARM, i) for i in range(workers)], chunksize=1)
        start = time.perf_counter()
        pool.starmap(bare_part, [(files, anchors // workers, i) for i in range(workers)], chunksize=1)
        return 2 * (anchors // workers * workers) / (time.perf_counter() - start)


def fed(feed: OnlineFeed, anchors: int) -> float:
    """Images a second after the first batches."""
    batches = feed.batches(0)
    for _ in range(WARM):
        next(batches)
    start = time.perf_counter()
    count = sum(len(batch.anchors) + len(batch.neighbours) for batch in islice(batches, anchors // BATCH))
    return count / (time.perf_counter() - start)


def unpacked(samples: ShardSamples, folder: Path) -> list[tuple[Path, Path | None]]:
    """The samples as files, for the bare loop."""
    files: list[tuple[Path, Path | None]] = []
    folder.mkdir()
    for i in range(len(samples)):
        image, label = folder / f"{i}.jpg", samples.label_bytes(i)
        image.write_bytes(samples.image_bytes(i))
        if label is not None:
            (folder / f"{i}.png").write_bytes(label)
        files.append((image, folder / f"{i}.png" if label is not None else None))
    return files


def random_table(samples: ShardSamples, root: Path) -> KnnTable:
    """Seven random neighbours of every sample."""
    ids = np.random.default_rng(0).integers(len(samples), size=(len(samples), 8))
    ids[:, 0] = np.arange(len(samples))
    names = [shard.name for shard in samples.split.shards]
    for name, (first, last) in zip(names, pairwise(samples.shard_starts.tolist())):
        rows = ids[first:last]
        write_part(root, name, Neighbours(rows, np.zeros(rows.shape, np.float32)), {})
    write_manifest(root, names, {})
    return KnnTable(root, {}, "")


def reads(samples: ShardSamples, repeats: int) -> str:
    """Raw reads a second: at random by offset, and one sample after the other by the tar reader."""
    ids = np.random.default_rng(0).permutation(len(samples)).tolist()

    def at_random() -> int:
        for i in ids:
            samples.image_bytes(i)
            samples.label_bytes(i)
        return len(ids)

    def in_order() -> int:
        runs = (Run(number, 0, shard.samples) for number, shard in enumerate(samples.split.shards))
        return sum(1 for run in runs for _ in read_run(samples, run))

    found = rates({"at random by offset": at_random, "in order by the tar reader": in_order}, 2 * repeats + 1)
    slow = found["in order by the tar reader"][0]
    rows: list[list[object]] = [[name, f"{rate:.0f}", rate / slow] for name, (rate, _) in found.items()]
    return table("Reading samples (image and label), not decoded", ["how", "samples/s", "ratio"], rows)


def main() -> None:
    """Print two tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, nargs="?")
    parser.add_argument("--card", default="folder")
    parser.add_argument("--crops", choices=("none", "five"), default="none")
    parser.add_argument("--anchors", type=int, default=960)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        source = args.source or Path(folder, "drawn")
        if args.source is None:
            write_dataset(source, train=300, val=1)
        shard_set = build(load_card(args.card), source, Path(folder, "out"), BuildOptions(crops=args.crops), ["train"])
        samples = ShardSamples(shard_set, "train")
        files = unpacked(samples, Path(folder, "files"))
        order = Order(tuple(shard.samples for shard in samples.split.shards), BATCH, seed=0, window=4096)
        draw = NeighbourDraw(random_table(samples, Path(folder, "knn")), seed=0, group_size=16, positives=7)
        rows: list[list[object]] = []
        for workers in (0, 2):
            feed = OnlineFeed(samples, order, range(BATCH), draw, resolution=SIDE, resize="bilinear", workers=workers)
            pairs: list[tuple[float, float]] = []
            for _ in range(args.repeats):
                parts: list[Callable[[], float]] = [
                    partial(bare, files, args.anchors, workers), partial(fed, feed, args.anchors)
                ]  # fmt: skip
                pairs.append((parts[0](), parts[1]()))
            plain, fast = (statistics.median(pair[i] for pair in pairs) for i in (0, 1))
            rows.append([workers, f"{plain:.0f}", f"{fast:.0f}", statistics.median(f / p for p, f in pairs)])
        columns = ["workers", "bare, images/s", "feed, images/s", "of bare"]
        print(table(f"Feeding training at {SIDE} pixels, crops {args.crops}, {len(samples)} samples", columns, rows))
        print(reads(samples, args.repeats))


if __name__ == "__main__":
    main()
