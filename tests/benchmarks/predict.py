"""Images a second of prediction by batch size and workers, its parts, and its memory on an image of 10,000×10,000.

    python tests/benchmarks/predict.py RUN IMAGES [--batch-sizes 1 8] [--workers 1 2] [--side 10000] [--repeats 3]
        [section.key=value …]

`network`: the model alone on images in memory, at their scale; `predict`: the command's work with everything it writes,
without loading the model; of several workers, with their start. Memory is the largest resident size of a process of its
own, beyond what one takes for an image of 250×250, at --scale native; a GeoTIFF is read in parts, a PNG whole. Medians
of what was taken in turns. OMP_NUM_THREADS holds for all.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from stego_dist.config import StorageConfig
from stego_dist.data.sources import open_image
from stego_dist.inference.inputs import Input, list_inputs
from stego_dist.inference.model import Model
from stego_dist.inference.options import Options
from stego_dist.jobs.predict import Setup, predict
from tests.benchmarks.timing import table

PEAK = (
    "import pathlib, re, sys; from stego_dist.cli import main; main(sys.argv[1:]); "
    "print('peak', re.search(r'VmHWM:\\s+(\\d+)', pathlib.Path('/proc/self/status').read_text())[1])"
)


def network(model: Model, inputs: list[Input], batch_size: int) -> float:
    """Images a second of the model."""
    rasters = [model.raster(open_image(item.source.read())) for item in inputs]
    start = time.perf_counter()
    count = sum(1 for _ in model.segment_rasters(enumerate(rasters), batch_size))
    return count / (time.perf_counter() - start)


def whole(setup: Setup, words: list[str], workers: int) -> float:
    """Images a second of the command."""
    with tempfile.TemporaryDirectory() as folder:
        summary = predict(Setup(setup.run, setup.overrides, setup.options, Path(folder)), words, workers=workers)
    return summary.images / summary.seconds


def rates(args: argparse.Namespace) -> str:
    """Table of images a second."""
    inputs = list_inputs(args.images, split="val", storage=StorageConfig()).inputs
    rows: list[list[object]] = []
    for size in args.batch_sizes:
        setup = Setup(args.run, tuple(args.overrides), Options(batch_size=size), Path())
        model, turns = setup.model(), []
        for _ in range(args.repeats):
            turns.append([network(model, inputs, size), *(whole(setup, args.images, n) for n in args.workers)])
        bare, *rest = map(statistics.median, zip(*turns))
        rows.append([size, bare, *(value for rate in rest for value in (rate, rate / bare))])
    columns = ["batch", "network, images/s"]
    columns += [name for n in args.workers for name in (f"predict, {n} worker(s)", "of network")]
    return table(f"Prediction of {len(inputs)} images ({torch.get_num_threads()} threads)", columns, rows)


def peak(args: argparse.Namespace, image: Path) -> tuple[float, float]:
    """Megabytes and seconds of a process that segments an image."""
    with tempfile.TemporaryDirectory() as out:
        words = ["predict", str(args.run), str(image), "--out", out, "--scale", "native", *args.overrides]
        start = time.perf_counter()
        done = subprocess.run([sys.executable, "-c", PEAK, *words], capture_output=True, text=True, check=True)
    found = re.search(r"peak (\d+)", done.stdout)
    assert found
    return int(found[1]) * 1024 / 1e6, time.perf_counter() - start


def memory(args: argparse.Namespace) -> str:
    """Table of memory on one large image."""
    import rasterio

    side, rows = args.side, []
    strip = np.random.default_rng(0).integers(0, 255, (25, side // 10, 3)).astype(np.uint8)
    strip = np.array(Image.fromarray(strip).resize((side, 250), Image.Resampling.BICUBIC))
    with tempfile.TemporaryDirectory() as folder:
        tif, png, small = Path(folder) / "large.tif", Path(folder) / "large.png", Path(folder) / "small.png"
        shape = {"count": 3, "height": side, "width": side, "dtype": "uint8", "interleave": "pixel"}
        with rasterio.open(tif, "w", driver="GTiff", crs="EPSG:32633", **shape) as file:
            for first in range(0, side, 250):
                last = min(first + 250, side)
                file.write(strip[: last - first].transpose(2, 0, 1), window=((first, last), (0, side)))
        Image.fromarray(np.tile(strip, (-(-side // 250), 1, 1))[:side]).save(png, compress_level=1)
        Image.fromarray(strip[:, :250]).save(small)
        base, _ = peak(args, small)
        for path in (tif, png):
            most, seconds = peak(args, path)
            rows.append([path.name, f"{side}×{side}", most - base, seconds])
    return table(f"Memory beyond {base:.0f} MB", ["image", "pixels", "MB more", "seconds"], rows)


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("images", nargs="+")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--side", type=int, default=10_000, help="0: no large image")
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_intermixed_args()
    args.overrides = [word for word in args.images if "=" in word]
    args.images = [word for word in args.images if "=" not in word]
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    print(rates(args))
    if args.side:
        print(memory(args))


if __name__ == "__main__":
    main()
