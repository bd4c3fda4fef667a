"""One pass of the frozen backbone over the training shards: descriptors for KNN, and the bank when it is wanted.

`embed_shard` is a pure function of a shard; Ray workers take shards until none is left. What is done is skipped, so a
killed job continues where it stopped.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch

from stego_dist import console
from stego_dist.config import Config
from stego_dist.data.manifest import ShardSet
from stego_dist.data.samples import ShardSamples
from stego_dist.engine.inputs import AUTOCAST, features_fingerprint, make_backbone
from stego_dist.errors import UserError
from stego_dist.features.store import ShardFeatures, is_done, write_manifest, write_shard
from stego_dist.jobs.cluster import run_on_workers
from stego_dist.models.backbone import Backbone, descriptors
from stego_dist.rundir import Fingerprint

REMEDY = "Pass --overwrite to compute it again, or choose another features.dir."


def embed(config: Config, *, bank: bool, overwrite: bool = False) -> Fingerprint:
    """Write the feature store of the training split to features.dir; returns its fingerprint.

    Raises UserError: the bank does not fit on the disk; StaleInputError: what lies there was made from something else.
    """
    shard_set = ShardSet.open(config.data.shards, config.data.storage)
    split = shard_set.split(config.data.train_split)
    backbone = make_backbone(config)
    fingerprint = features_fingerprint(config, shard_set, backbone)
    root = Path(config.features.dir)
    if overwrite and root.exists():
        shutil.rmtree(root)
    names = [shard.name for shard in split.shards]
    todo = [i for i, name in enumerate(names) if not is_done(root, name, fingerprint, bank, REMEDY)]
    grid = config.data.resolution // backbone.stride
    if bank:
        _check_space(root, sum(split.shards[i].samples for i in todo), backbone.dim, grid, config, split.labelled)
    done = split.num_samples - sum(split.shards[i].samples for i in todo)
    console.say(
        f"embedding {split.num_samples} crops of {shard_set.root} with {backbone.name} at {config.data.resolution} "
        f"pixels: {'descriptors and bank' if bank else 'descriptors'} to {root}"
        + (f" ({done} are there already)" if done else "")
    )
    if todo:
        make = partial(_make_worker, config, fingerprint, bank)
        with console.progress("embed", split.num_samples, "crops", done) as bar:
            for count in run_on_workers(make, todo, workers=config.features.workers, gpus=1.0):
                bar.advance(count)
    write_manifest(root, names, fingerprint, dim=backbone.dim, grid=[grid, grid])
    return fingerprint


def _make_worker(config: Config, fingerprint: Fingerprint, bank: bool) -> Callable[[int], int]:
    """Runs in a worker: load the backbone once."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    samples = ShardSamples(ShardSet.open(config.data.shards, config.data.storage), config.data.train_split)
    backbone = make_backbone(config).to(device)

    def embed_and_write(shard: int) -> int:
        features = embed_shard(config, samples, backbone, shard, bank, device)
        write_shard(Path(config.features.dir), samples.split.shards[shard].name, features, fingerprint)
        return len(features.source)

    return embed_and_write


def embed_shard(
    config: Config, samples: ShardSamples, backbone: Backbone, shard: int, bank: bool, device: torch.device
) -> ShardFeatures:
    """Features of all samples of a shard, in order. Raises UserError naming a sample that can't be read."""
    first, last = int(samples.shard_starts[shard]), int(samples.shard_starts[shard + 1])
    dtype = AUTOCAST[config.features.precision]
    pooled, dense, labels = [], [], []
    for start in range(first, last, config.features.batch_size):
        ids = range(start, min(start + config.features.batch_size, last))
        views = samples.views(ids, config.data.resolution, config.data.image_resize)
        with torch.autocast(device.type, dtype, enabled=dtype is not None):
            feats = backbone(torch.stack([image for image, _ in views]).to(device))
        pooled.append(descriptors(feats).cpu().numpy())
        if bank:
            dense.append(feats.half().cpu().numpy())
            labels += [label.numpy() for _, label in views if label is not None]
    return ShardFeatures(
        descriptors=np.concatenate(pooled),
        source=samples.source[first:last],
        bank=np.concatenate(dense) if bank else None,
        labels=np.stack(labels) if labels else None,
    )


def _check_space(root: Path, samples: int, dim: int, grid: int, config: Config, labelled: bool) -> None:
    """Say how many bytes the bank takes; refuse when they are not free."""
    wanted = samples * (dim * grid * grid * 2 + (config.data.resolution**2 if labelled else 0))
    existing = next(parent for parent in [root.resolve(), *root.resolve().parents] if parent.exists())
    stat = os.statvfs(existing)
    free = stat.f_bavail * stat.f_frsize
    console.say(f"the bank takes {wanted / 2**30:.2f} GiB of {free / 2**30:.1f} GiB free")
    if wanted > free:
        raise UserError(
            f"features.dir={root}: the bank needs {wanted / 2**30:.1f} GiB, {free / 2**30:.1f} GiB are free; choose "
            "another folder or train.features=online"
        )
