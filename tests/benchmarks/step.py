"""How fast a training step is, as ratios to the published step on the same backbone, batch and threads in one run.

    python -m tests.benchmarks.step                                   CPU: CamVid's shapes, ViT-Ti/16 at 448, batch 16
    python -m tests.benchmarks.step --device cuda --model vit_small_patch8_224 --size 224 --batch 32 --classes 27

Every row does a whole optimiser step from images (online) or from bank rows (bank). "Data wait" is the time that
gathering a batch takes, without reading ahead. Needs torch, timm and this package's models, losses, features and step.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch.nn.parallel import DistributedDataParallel

from stego_dist.features.bank import MappedBank, ResidentBank
from stego_dist.features.store import FeatureStore
from tests.benchmarks.step_report import report
from tests.benchmarks.stepping import Ours, Shape, Theirs, write_store
from tests.benchmarks.timing import rates, table


def compare(shape: Shape, store: FeatureStore, repeats: int, compiled: bool) -> list[list[object]]:
    """A row for each way to do a step: steps/s, ratio to the published one, data wait, loss of the first step."""
    every = replace(shape, lines=None)
    backbone = shape.backbone()
    mapped, resident = MappedBank(store), ResidentBank(store, shape.device)
    ways: dict[str, Ours | Theirs] = {"published step, float32": Theirs(shape)}
    if shape.device.type == "cuda":
        ways["published step, TF32"] = Theirs(shape, tf32=True)
    ways |= {
        "online, float32, every pixel": Ours(every, backbone),
        "online, float32": Ours(shape, backbone),
        "online, bf16": Ours(shape, backbone, half=True),
        "bank by memory map, every pixel": Ours(every, backbone, bank=mapped),
        "bank by memory map": Ours(shape, backbone, bank=mapped),
        "bank held on the device": Ours(shape, backbone, bank=resident),
        "bank held on the device, bf16": Ours(shape, backbone, bank=resident, half=True),
    }
    if compiled:
        ways["online, bf16, compiled"] = Ours(shape, backbone, half=True, compiled=True)
        ways["bank held on the device, compiled"] = Ours(shape, backbone, bank=resident, compiled=True)
    losses = {name: way() for name, way in ways.items()}  # also warms up and compiles
    for way in ways.values():
        if isinstance(way, Ours):
            way.waited = way.worked = 0.0

    def one(way: Ours | Theirs) -> Callable[[], int]:
        return lambda: int(way() == way() or 2)  # two steps

    found = rates({name: one(way) for name, way in ways.items()}, repeats)
    base = found["published step, float32"][0]
    rows: list[list[object]] = []
    for name, way in ways.items():
        share = f"{way.waited / (way.waited + way.worked):.1%}" if isinstance(way, Ours) else ""
        rows.append([name, found[name][0], found[name][0] / base, share, f"{losses[name]:.4f}"])
    return rows


def rank_rate(rank: int, ranks: int, shape: Shape, folder: str, steps: int, rendezvous: str) -> None:
    """Bank steps/s of a global batch of two groups, shared by the ranks; rank 0 writes it to `folder`."""
    torch.set_num_threads(1)
    store = FeatureStore(Path(folder) / "store", {}, "")
    mine = replace(shape, batch=2 * shape.group // ranks)
    step = Ours(mine, shape.backbone(), bank=ResidentBank(store, shape.device))
    if ranks > 1:
        torch.distributed.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=ranks)
        step.step = DistributedDataParallel(step.step)
    for _ in range(2):
        step()
    times = []
    for _ in range(steps):
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    if rank == 0:
        (Path(folder) / f"rate-{ranks}").write_text(str(1 / statistics.median(times)))
    if ranks > 1:
        torch.distributed.destroy_process_group()


def scaling(shape: Shape, folder: Path, repeats: int) -> list[list[object]]:
    """One process with two groups a step against two with one each, in turns."""
    found: dict[int, list[float]] = {1: [], 2: []}
    for turn in range(2):
        for ranks in found:
            rendezvous = f"file://{folder}/rendezvous-{turn}-{ranks}"
            arguments = (ranks, shape, str(folder), 4 * repeats, rendezvous)
            torch.multiprocessing.spawn(rank_rate, arguments, nprocs=ranks)
            found[ranks].append(float((folder / f"rate-{ranks}").read_text()))
    one, two = (statistics.mean(found[ranks]) for ranks in (1, 2))
    return [[1, one, 1.0], [2, two, two / one]]


def main(arguments: list[str] | None = None) -> None:
    """Measure and print tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="vit_tiny_patch16_224")
    parser.add_argument("--weights", default="random")
    parser.add_argument("--size", type=int, default=448)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--group", type=int, default=None, help="images of a group; default: the batch")
    parser.add_argument("--classes", type=int, default=11)
    parser.add_argument("--samples", type=int, default=368, help="samples in the bank")
    parser.add_argument("--lines", type=int, default=56, help="S of train.linear_points; 0: every pixel")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, nargs="*", default=[1, 2], help="CPU threads, a table for each")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--no-ranks", action="store_true", help="leave out two ranks against one")
    parser.add_argument("--report", action="store_true", help="matrix rate and profile (default on a GPU)")
    args = parser.parse_args(arguments)
    device = torch.device(args.device)
    shape = Shape(
        args.model, args.weights, args.size, args.batch, args.group or args.batch, args.classes, args.samples,
        args.lines or None, device,
    )  # fmt: skip
    backbone = shape.backbone()
    with tempfile.TemporaryDirectory() as folder:
        store = write_store(Path(folder) / "store", shape, backbone.dim, args.size // backbone.stride)
        what = f"{args.model} at {args.size}, batch {args.batch}, {args.classes} classes, {device.type}"
        rows: list[list[object]] = []
        for threads in args.threads if device.type == "cpu" else [torch.get_num_threads()]:
            torch.set_num_threads(threads)
            rows = compare(shape, store, args.repeats, not args.no_compile)
            columns = ["step", "steps/s", "ratio", "data wait", "first loss"]
            print(table(f"{what}, {threads} thread(s)", columns, rows), flush=True)
        if not args.no_ranks and device.type == "cpu":
            columns = ["processes", "steps/s", "ratio"]
            title = f"Bank steps of two groups of {shape.group}, single-thread gloo ranks"
            print(table(title, columns, scaling(shape, Path(folder), args.repeats)))
        if args.report or device.type == "cuda":
            report(shape, store, rows)


if __name__ == "__main__":
    main()
