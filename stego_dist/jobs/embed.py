"""One pass of the frozen backbone over the training shards: descriptors for KNN, and the bank when it is wanted.

With the bank go the features that evaluation looks at (views.py): the same workers compute them.

What is embedded is a pure function of a shard; Ray workers take shards until none is left. What is done is skipped, so
a killed job continues where it stopped.
"""

from __future__ import annotations

import os
import shutil
import socket
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import torch
from torch import Tensor

from stego_dist import console
from stego_dist.config import Config
from stego_dist.console import size
from stego_dist.data.manifest import ShardSet, Split
from stego_dist.data.samples import ShardSamples
from stego_dist.engine.inputs import AUTOCAST, features_fingerprint, make_backbone
from stego_dist.errors import StaleInputError, UserError
from stego_dist.features.embed import Recipe, View, embed_samples
from stego_dist.features.store import ShardFeatures, is_done, refuse_others, write_manifest, write_shard_in_batches
from stego_dist.jobs.cluster import run_on_workers
from stego_dist.jobs.views import REMEDY, ViewJob, view_jobs
from stego_dist.models.backbone import Backbone
from stego_dist.rundir import Fingerprint, writing_to
from stego_dist.shardarrays import remove_leftovers

RESTART = "What is finished is kept: the same command goes on from there."
WORKERS_SHOWN = 32
"""Workers whose rates are listed at the end, the slowest."""


Task = tuple[int, int]
"""Number of a store (0: the training split's, then the view stores) and of a shard of its split."""


@dataclass(frozen=True)
class Embedded:
    """A finished shard: who did it, and how fast."""

    worker: str
    crops: int
    seconds: float


def embed(config: Config, *, bank: bool, overwrite: bool = False) -> Fingerprint:
    """Write the feature store of the training split to features.dir; returns its fingerprint. What is there already is
    kept; with `overwrite` a store that was made from something else is deleted first, its neighbour table too.
    With `bank` the features of the evaluated split are kept as well (eval.features), where it is there.

    Raises UserError: it does not fit on the disk, a sample can't be read, features.dir can't be overwritten or written;
    StaleInputError: what lies there was made from something else.
    """
    shard_set = ShardSet.open(config.data.shards, config.data.storage)
    split = shard_set.split(config.data.train_split)
    backbone = make_backbone(config)
    fingerprint = features_fingerprint(config, shard_set, backbone)
    root = Path(config.features.dir)
    names = [shard.name for shard in split.shards]
    with writing_to(root, RESTART):
        remove_leftovers(root, names)
    if overwrite:
        refuse_others(root)
    try:
        todo = [i for i, name in enumerate(names) if not is_done(root, name, fingerprint, bank, REMEDY)]
    except StaleInputError:
        if not overwrite:
            raise
        with writing_to(root, RESTART):
            shutil.rmtree(root)
        todo = list(range(len(names)))
    views = view_jobs(config, shard_set, backbone, overwrite=overwrite) if bank else []
    done = split.num_samples - sum(split.shards[i].samples for i in todo)
    console.say(
        f"embedding {split.num_samples} crops of {shard_set.root} with {backbone.name} at {config.data.resolution} "
        f"pixels: {'descriptors and bank' if bank else 'descriptors'} to {root}"
        + (f" ({done} are there already)" if done else "")
    )
    for job in views:
        console.say(
            f"with them, for evaluation, {len(job.views.ids(shard_set.split(job.views.split).num_samples))} images of "
            f"split {job.views.split} at {job.views.resolution} pixels, {' and '.join(job.views.kinds)}, to {job.root}"
            + ("" if job.todo else " (they are there already)")
        )
    tasks = [*((0, i) for i in todo), *((n, i) for n, job in enumerate(views, 1) for i in job.todo)]
    if tasks:
        _check_space(config, split, backbone, todo, bank, views)
        with writing_to(root, RESTART):
            (root / "parts").mkdir(parents=True, exist_ok=True)
        make = partial(_make_worker, config, fingerprint, bank, views)
        rates = _Rates()
        more = [job.forwards(i) for job in views for i in job.images]
        done += sum(more) - sum(job.forwards(i) for job in views for i in job.todo)
        with console.progress("embed", split.num_samples + sum(more), "crops", done) as bar:
            for shard in run_on_workers(
                make, tasks, workers=config.features.workers, gpus=config.features.gpus_per_worker,
                name=lambda task: f"shard {views[task[0] - 1].names[task[1]] if task[0] else names[task[1]]}",
            ):  # fmt: skip
                bar.advance(shard.crops, **rates.add(shard))
        rates.report()
    grid = config.data.resolution // backbone.stride
    with writing_to(root, RESTART):
        remove_leftovers(root, names)  # of workers that died
        write_manifest(root, names, fingerprint, dim=backbone.dim, grid=[grid, grid])
        for job in views:
            job.finish()
    return fingerprint


def _make_worker(
    config: Config, fingerprint: Fingerprint, bank: bool, views: list[ViewJob]
) -> Callable[[Task], Embedded]:
    """Runs in a worker: load the backbone once."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    shard_set = ShardSet.open(config.data.shards, config.data.storage)
    samples_of = cache(partial(ShardSamples, shard_set))
    backbone = make_backbone(config).to(device)
    run = _compiled(config, backbone, device) if config.features.compile else backbone
    root, me = Path(config.features.dir), f"{socket.gethostname()}:{os.getpid()}"

    def embed_and_write(task: Task) -> Embedded:
        (store, number), start = task, time.monotonic()
        with writing_to(root, RESTART):
            if store:
                job = views[store - 1]
                job.write(config, samples_of(job.views.split), backbone, number)
                return Embedded(me, job.forwards(number), time.monotonic() - start)
            samples = samples_of(config.data.train_split)
            shard = samples.split.shards[number]
            batches = embed_shard(config, samples, run, number, bank, device)
            write_shard_in_batches(root, shard.name, shard.samples, batches, fingerprint)
        return Embedded(me, shard.samples, time.monotonic() - start)

    return embed_and_write


def embed_shard(
    config: Config,
    samples: ShardSamples,
    backbone: Callable[[Tensor], Tensor],
    shard: int,
    bank: bool,
    device: torch.device,
) -> Iterator[ShardFeatures]:
    """Features of all samples of a shard, in batches. Raises UserError naming a sample that can't be read."""

    def view(i: int) -> View:
        if bank:
            return samples.view(i, config.data.resolution, config.data.image_resize)
        return samples.image_view(i, config.data.resolution, config.data.image_resize), None

    recipe = Recipe(
        batch_size=config.features.batch_size,
        autocast=AUTOCAST[config.features.precision],
        descriptors=config.features.descriptors,
        bank=bank,
        threads=max(torch.get_num_threads(), samples.shard_set.storage.parallel),
    )
    first, last = int(samples.shard_starts[shard]), int(samples.shard_starts[shard + 1])
    return embed_samples(
        recipe, range(first, last), view=view, sources=samples.source, backbone=backbone, device=device,
        describe=lambda i: samples.describe(i, ".jpg"),
    )  # fmt: skip


def _compiled(config: Config, backbone: Backbone, device: torch.device) -> Callable[[Tensor], Tensor]:
    """The backbone compiled for batches of one size; smaller ones are filled up. Raises UserError when that fails."""
    size, side, dtype = config.features.batch_size, config.data.resolution, AUTOCAST[config.features.precision]
    compiled = torch.compile(backbone, dynamic=False)

    def run(images: Tensor) -> Tensor:
        filled = torch.cat([images, images[:1].expand(size - len(images), -1, -1, -1)])
        feats: Tensor = compiled(filled)
        return feats[: len(images)]

    try:
        with torch.no_grad(), torch.autocast(device.type, dtype, enabled=dtype is not None):
            run(torch.zeros(1, 3, side, side, dtype=torch.uint8, device=device))
    except Exception as error:  # whatever the compiler and the compilers that it calls raise
        reason = str(error).strip().partition("\n")[0]
        raise UserError(
            f"features.compile: torch.compile of {backbone.name} failed ({type(error).__name__}: {reason}); it needs a "
            "C++ compiler, and on a GPU Triton. Set features.compile=false"
        ) from None
    return run


class _Rates:
    """Crops a second of every worker."""

    def __init__(self) -> None:
        self._done: dict[str, list[Embedded]] = defaultdict(list)

    def add(self, shard: Embedded) -> dict[str, str]:
        """Count a shard; its worker's rate, for the progress line."""
        self._done[shard.worker].append(shard)
        return {shard.worker: f"{shard.crops / shard.seconds:.1f} crops/s"}

    def report(self) -> None:
        """Say what each worker did."""
        lines = []
        for worker, shards in self._done.items():
            crops = sum(shard.crops for shard in shards)
            rate = crops / sum(shard.seconds for shard in shards)
            lines.append((rate, f"worker {worker}: {len(shards)} shards, {crops} crops, {rate:.1f} crops/s"))
        if len(lines) > WORKERS_SHOWN:
            console.say(f"the slowest {WORKERS_SHOWN} of {len(lines)} workers:")
        for _, line in sorted(lines)[:WORKERS_SHOWN]:
            console.say(line)


def store_bytes(config: Config, split: Split, backbone: Backbone, samples: int, bank: bool) -> tuple[int, int]:
    """Bytes that so many samples of a split take in the feature store: descriptors, and the bank."""
    grid, labels = config.data.resolution // backbone.stride, config.data.resolution**2 if split.labelled else 0
    described = samples * (backbone.dim * (2 if config.features.descriptors == "float16" else 4) + 8)
    return described, samples * (backbone.dim * grid * grid * 2 + labels) if bank else 0


def _check_space(
    config: Config, split: Split, backbone: Backbone, todo: list[int], bank: bool, views: list[ViewJob]
) -> None:
    """Say how many bytes what is left to do takes; refuse when they are not free."""
    root, samples = Path(config.features.dir), sum(split.shards[i].samples for i in todo)
    described, banked = store_bytes(config, split, backbone, samples, bank)
    replaced = sum(file.stat().st_size for i in todo for file in root.glob(f"{split.shards[i].name}.*.npy"))
    viewed = sum(job.needed for job in views)
    needed = described + banked + viewed - replaced
    stat = os.statvfs(next(parent for parent in [root.resolve(), *root.resolve().parents] if parent.exists()))
    free = stat.f_bavail * stat.f_frsize
    console.say(
        f"descriptors take {size(described)}"
        + (f", the bank {size(banked)}" if bank else "")
        + (f", the features for evaluation {size(viewed)}" if views else "")
        + (f", of which {size(replaced)} replace what is there" if replaced else "")
        + f"; {size(free)} are free"
    )
    if needed > free:
        raise UserError(
            f"features.dir={root}: {'descriptors and bank' if bank else 'descriptors'} need {size(needed)}, "
            f"{size(free)} are free; choose another folder"
            + (", eval.features=online (keeps none for evaluation)" if viewed else "")
            + (" or train.features=online" if bank else "")
        )
