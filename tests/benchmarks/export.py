"""Exports of trained runs against the Python path: cold start to the first labels, and images a second.

    python tests/benchmarks/export.py RUN [section.key=value …] [RUN …] [--batches 1 8] [--repeats 5] [--starts 3]
        [--side PIXELS] [--out tests/benchmarks/results/export.md]

Each run, with the overrides behind it, is exported to torch, ONNX and safetensors into a temporary folder. All ways get
the same square images at the run's scale, in memory, and give labels at that size; flip average as the run is
evaluated. Cold start: a fresh process from its start to the first labels of one image, imports and loading included,
files in the page cache; medians. Images a second: one process, ways taken in turns, medians, with OMP_NUM_THREADS
threads each. Ratios are to the Python path.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import cast

import numpy as np
import onnxruntime
import torch

from stego_dist.export.export import Options, export
from stego_dist.export.formats import INPUT, OUTPUTS, Format, Run, run_torch
from stego_dist.export.parity import made_up_images
from stego_dist.inference.model import Model
from tests.benchmarks.timing import rates, table

FORMATS: tuple[Format, ...] = ("torch", "onnx", "safetensors")
PYTHON = """
import sys, numpy as np
from stego_dist.inference.model import Model
image = np.load(sys.argv[2])
Model.load(sys.argv[1], device="cpu", scale=int(sys.argv[3]), overrides=sys.argv[4:])(image).labels
"""
TORCH = """
import sys, numpy as np, torch
images = torch.from_numpy(np.load(sys.argv[2])).permute(2, 0, 1)[None]
torch.export.load(sys.argv[1]).module()(images)
"""
ONNX = """
import sys, numpy as np, onnxruntime
images = np.load(sys.argv[2]).transpose(2, 0, 1)[None].copy()
onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"]).run(None, {"images": images})
"""


def cold_start(code: str, *arguments: str) -> float:
    """Seconds of a fresh process."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", code, *arguments], check=True)
    return time.perf_counter() - start


def onnx_session(path: Path) -> Run:
    """onnxruntime with as many threads as torch has."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def run(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        labels, scores = session.run(list(OUTPUTS), {INPUT: images.numpy()})
        return torch.from_numpy(labels), torch.from_numpy(scores)

    return run


def python_run(model: Model) -> Callable[[torch.Tensor], object]:
    """Labels of a batch by the Python path."""

    def run(images: torch.Tensor) -> object:
        arrays = [image.permute(1, 2, 0).numpy() for image in images]
        return [found.labels for found in model.segment(arrays, batch_size=len(arrays))]

    return run


def counted(run: Callable[[torch.Tensor], object], images: torch.Tensor) -> Callable[[], int]:
    """A unit of work for `rates`."""

    def work() -> int:
        run(images)
        return len(images)

    return work


def measure(
    run: Path, overrides: list[str], args: argparse.Namespace, folder: Path
) -> tuple[list[list[object]], list[list[object]]]:
    """Rows of both tables."""
    places = {
        kind: export(run, Options(kind, scale=args.side, overrides=tuple(overrides)), folder / kind) for kind in FORMATS
    }
    model = Model.load(run, device="cpu", scale=args.side, overrides=overrides)
    side = cast(int, model.scale)
    name = f"{model.scorer.backbone.name}, {side}"
    image = folder / "image.npy"
    np.save(image, made_up_images(1, (side, side))[0].permute(1, 2, 0).numpy())

    ways: dict[str, tuple[str, list[str]]] = {
        "Python, the run": (PYTHON, [str(run), str(image), str(side), *overrides]),
        "Python, safetensors": (PYTHON, [str(places["safetensors"]), str(image), str(side)]),
        "torch.export": (TORCH, [str(places["torch"] / "model.pt2"), str(image)]),
        "onnxruntime": (ONNX, [str(places["onnx"] / "model.onnx"), str(image)]),
    }
    seconds = {
        way: statistics.median(cold_start(code, *words) for _ in range(args.starts))
        for way, (code, words) in ways.items()
    }
    starts: list[list[object]] = [[name, way, s, seconds["Python, the run"] / s] for way, s in seconds.items()]

    runs: dict[str, Callable[[torch.Tensor], object]] = {
        "Python": python_run(model),
        "torch.export": run_torch(places["torch"] / "model.pt2"),
        "onnxruntime": onnx_session(places["onnx"] / "model.onnx"),
    }
    rows: list[list[object]] = []
    for batch in args.batches:
        images = made_up_images(batch, (side, side))
        for one in runs.values():
            one(images)  # what is allocated once
        found = rates({way: counted(one, images) for way, one in runs.items()}, args.repeats)
        rows += [[name, batch, way, wall, wall / found["Python"][0]] for way, (wall, _) in found.items()]
    return starts, rows


def main() -> None:
    """Print both tables, and write them where that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", metavar="RUN | section.key=value")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--starts", type=int, default=3)
    parser.add_argument("--side", type=int, help="side of the images; default: eval.resolution")
    parser.add_argument("--out", type=Path, help="Markdown file that is written")
    args = parser.parse_intermixed_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))
    starts: list[list[object]] = []
    rows: list[list[object]] = []
    given: dict[str, list[str]] = {}
    for word in args.runs:
        if "=" in word:
            given[next(reversed(given))].append(word)
        else:
            given[word] = []
    for run, overrides in given.items():
        with tempfile.TemporaryDirectory() as folder:
            more_starts, more_rows = measure(Path(run), overrides, args, Path(folder))
        starts, rows = starts + more_starts, rows + more_rows
    threads = f"{torch.get_num_threads()} thread(s)"
    text = "\n".join(
        [
            table("Cold start to the first labels", ["network, side", "way", "s", "ratio"], starts),
            table(f"Images a second, {threads}", ["network, side", "batch", "way", "images/s", "ratio"], rows),
        ]
    )
    print(text)
    if args.out:
        versions = (
            f"torch {torch.__version__}, onnxruntime {onnxruntime.__version__}, Python {platform.python_version()}"
        )
        head = f"# Exports against the Python path\n\n{platform.machine()}, {datetime.date.today()}, {versions}."
        args.out.write_text(f"{head} See `tests/benchmarks/export.py` for what is measured.\n\n{text}", "utf-8")


if __name__ == "__main__":
    main()
