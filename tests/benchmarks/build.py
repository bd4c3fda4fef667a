"""Images packed a second, against the bare decoding and encoding of the same files.

    python tests/benchmarks/build.py ../shared/data/camvid --card camvid11 [--copies 2] [--repeats 3] [--workers 2]

Bare: one loop that reads, decodes, cuts and encodes the same images and labels, writes nothing, checks nothing.
Without a folder, landscapes are drawn.
"""

from __future__ import annotations

import argparse
import io
import tempfile
import time
from functools import partial
from pathlib import Path

from PIL import Image

from stego_dist.data.card import Card, load_card
from stego_dist.data.crops import Crops, crop_boxes
from stego_dist.data.pack import build
from stego_dist.data.plan import BuildOptions
from stego_dist.data.sources import Source, find_pairs
from stego_dist.jobs.cluster import ray_cluster
from stego_dist.jobs.pack import packing_runner
from stego_dist.quickstart.landscapes import write_dataset
from tests.benchmarks.timing import rates, table


def bare(pairs: list[Source], crops: Crops) -> int:
    """What no builder can do without."""
    for pair in pairs:
        image = Image.open(io.BytesIO(pair.image.read_bytes()))
        image.load()
        label = Image.open(io.BytesIO(pair.label.read_bytes())) if pair.label else None
        for box in crop_boxes(*image.size, crops, 0.5, 0, pair.key):
            if crops != "none":
                image.crop(box).save(io.BytesIO(), "JPEG", quality=95, subsampling=0)
            if label:
                label.crop(box).save(io.BytesIO(), "PNG")
    return len(pairs)


def packed(card: Card, source: Path, out: Path, crops: Crops, workers: int) -> int:
    """A whole build into a fresh folder."""
    out = Path(tempfile.mkdtemp(dir=out))
    options = BuildOptions(crops=crops)
    return build(card, source, out, options, ["train"], packing_runner(workers)).split("train").num_images


def copies_of(card: Card, source: Path, count: int, root: Path) -> Path:
    """The training split several times over, by links."""
    for pattern in (card.images, card.labels):
        if pattern:
            folder = root / pattern.replace("{split}", card.splits["train"])
            folder.mkdir(parents=True)
            for i in range(count):
                (folder / f"copy{i}").symlink_to((source / folder.relative_to(root)).resolve())
    return root


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, nargs="?")
    parser.add_argument("--card", default="folder")
    parser.add_argument("--copies", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    rows: list[list[object]] = []
    with tempfile.TemporaryDirectory() as folder:
        source = args.source or Path(folder, "drawn")
        if args.source is None:
            write_dataset(source, train=300, val=1)
        card = load_card(args.card)
        raw = copies_of(card, source, args.copies, Path(folder, "raw"))
        pairs = find_pairs(card, raw, "train")
        for crops in ("none", "five"):
            out = Path(folder, f"out_{crops}")
            out.mkdir()
            work = {
                "bare": partial(bare, pairs, crops),
                "one": partial(packed, card, raw, out, crops, 1),
            }
            found = rates(work, args.repeats)
            speedups = []
            with ray_cluster():
                for _ in range(args.repeats):
                    seconds = []
                    for workers in (1, args.workers):
                        start = time.perf_counter()
                        packed(card, raw, out, crops, workers)
                        seconds.append(time.perf_counter() - start)
                    speedups.append(seconds[0] / seconds[1])
            (bare_wall, bare_cpu), (wall, cpu) = found["bare"], found["one"]
            times = sorted(speedups)[len(speedups) // 2]
            rows.append([crops, len(pairs), bare_wall, wall, wall / bare_wall, cpu / bare_cpu, times])
    columns = ["crops", "images", "bare, images/s", "build, images/s", "of bare, wall", "of bare, CPU time",
               f"{args.workers} workers × one"]  # fmt: skip
    print(table("Building shards", columns, rows))


if __name__ == "__main__":
    main()
