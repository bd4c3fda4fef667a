"""View stores as a job: which are wanted, what of them is missing, and how a worker computes a shard of one.

Like the feature store's: a shard is done when its marker says so; what is done is kept, what is stale is refused by
name or, when asked for, computed again.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from stego_dist import console
from stego_dist.config import Config
from stego_dist.data.manifest import ShardSet
from stego_dist.data.samples import ShardSamples
from stego_dist.engine.inputs import AUTOCAST, kept_views, views_dir, views_fingerprint
from stego_dist.errors import StaleInputError, UserError
from stego_dist.features.embed import Recipe
from stego_dist.features.views import Ids, Views, ViewStore, embed_views, write_manifest
from stego_dist.models.backbone import Backbone
from stego_dist.rundir import Fingerprint
from stego_dist.shardarrays import read_marker, remove_leftovers, write_batches

REMEDY = "Pass --overwrite to compute it again, or choose another features.dir."


@dataclass(frozen=True)
class ViewJob:
    """A view store that is wanted."""

    views: Views
    root: Path
    fingerprint: Fingerprint
    names: dict[int, str]
    """Of the shards that hold any of its images, by their number in the split."""
    images: dict[int, Ids]
    """Those that each of them holds."""
    labelled: bool
    dim: int
    grid: int
    todo: tuple[int, ...]
    """Shards that are missing."""

    def forwards(self, shard: int) -> int:
        """Images of a shard, each as often as it is looked at."""
        return len(self.images[shard]) * len(self.views.kinds)

    @property
    def needed(self) -> int:
        """Bytes of what is missing, without what it replaces."""
        kept = sum(len(self.images[shard]) for shard in self.todo)
        each = views_bytes(self.views, self.dim, self.grid, self.labelled)
        replaced = (file for shard in self.todo for file in self.root.glob(f"{self.names[shard]}.*.npy"))
        return kept * each - sum(file.stat().st_size for file in replaced)

    def write(self, config: Config, samples: ShardSamples, backbone: Callable[[Tensor], Tensor], shard: int) -> None:
        """Compute and write a shard. Raises UserError naming an image that can't be read."""
        recipe = Recipe(
            batch_size=config.features.batch_size,
            autocast=AUTOCAST[config.features.precision],
            descriptors=config.features.descriptors,
            bank=True,
            threads=max(torch.get_num_threads(), samples.shard_set.storage.parallel),
        )
        batches = embed_views(
            recipe,
            self.images[shard].tolist(),
            self.views.kinds,
            view=partial(samples.view, resolution=self.views.resolution, resize=config.data.image_resize),
            backbone=backbone,
            device=torch.device("cuda" if torch.cuda.is_available() else "cpu"),
            describe=lambda i: samples.describe(i, ".jpg"),
        )
        marker = {"fingerprint": self.fingerprint}
        write_batches(self.root, self.names[shard], len(self.images[shard]), batches, marker)

    def finish(self) -> None:
        """Declare the store complete, unless it is."""
        names = list(self.names.values())
        remove_leftovers(self.root, names)  # of workers that died
        try:
            ViewStore(self.root, self.fingerprint)
        except UserError:
            write_manifest(self.root, names, self.fingerprint, dim=self.dim, grid=[self.grid, self.grid])


def views_bytes(views: Views, dim: int, grid: int, labelled: bool) -> int:
    """Of an image."""
    return 8 + len(views.kinds) * dim * grid * grid * 2 + (views.resolution**2 if labelled else 0)


def view_jobs(config: Config, shard_set: ShardSet, backbone: Backbone, *, overwrite: bool) -> list[ViewJob]:
    """The stores that evaluation and the label-free score read; says what can't be kept, and why.

    Raises StaleInputError naming what differs in one that was made from something else, unless it is to be overwritten.
    """
    if config.eval.crop != "centre" and config.eval.features != "online":
        console.say("whole images (eval.crop=none) have sizes of their own: their features are not kept")
    jobs = []
    for views in kept_views(config):
        if views.split not in shard_set.splits or not shard_set.split(views.split).num_samples:
            console.say(f"{shard_set.root} has no images of split {views.split}: no features are kept for evaluation")
            continue
        try:
            backbone.check_resolution("eval.resolution", views.resolution)
        except UserError as error:
            console.say(f"no features are kept for evaluation at {views.resolution} pixels: {error}")
            continue
        jobs.append(view_job(config, views, shard_set, backbone, overwrite=overwrite))
    return jobs


def view_job(config: Config, views: Views, shard_set: ShardSet, backbone: Backbone, *, overwrite: bool) -> ViewJob:
    """A store of these views, and what of it is missing."""
    split = shard_set.split(views.split)
    starts = np.cumsum([0, *(shard.samples for shard in split.shards)])
    ids = views.ids(split.num_samples)
    parts = np.split(ids, np.searchsorted(ids, starts[1:-1]))
    images = {number: part for number, part in enumerate(parts) if len(part)}
    names = {number: split.shards[number].name for number in images}
    root, fingerprint = views_dir(config, views), views_fingerprint(config, views, shard_set, backbone)
    remove_leftovers(root, list(names.values()))
    try:
        todo = [n for n, name in names.items() if read_marker(root, name, fingerprint, REMEDY) is None]
    except StaleInputError:
        if not overwrite:
            raise
        shutil.rmtree(root)
        todo = list(names)
    return ViewJob(
        views, root, fingerprint, names, images, split.labelled, backbone.dim, views.resolution // backbone.stride,
        tuple(todo),
    )  # fmt: skip
