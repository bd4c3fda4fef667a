"""What runs read that is no matter of how they are trained: shards, backbone, table, bank, kept views.

Each is opened when it is first asked for. Trials that follow one another in a process share what the last one opened
(`keep_opened`), which is the one place where a process holds such things.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from stego_dist.config import Config
from stego_dist.data.manifest import ShardSet
from stego_dist.data.samples import ShardSamples
from stego_dist.engine.inputs import features_fingerprint, make_backbone, open_table, open_views
from stego_dist.engine.supply import open_bank
from stego_dist.features.bank import Bank
from stego_dist.features.views import Views, ViewStore
from stego_dist.knn.table import KnnTable, knn_dir
from stego_dist.models.backbone import Backbone
from stego_dist.rundir import Fingerprint


class Opened:
    """The inputs of a configuration on a device; what opening each raises, its attribute raises."""

    def __init__(self, config: Config, device: torch.device) -> None:
        self.config, self.device = config, device
        self._views: dict[Views, ViewStore | None] = {}

    @cached_property
    def shard_set(self) -> ShardSet:
        """The shard set."""
        return ShardSet.open(self.config.data.shards, self.config.data.storage)

    @cached_property
    def training(self) -> ShardSamples:
        """Samples that are trained on."""
        return ShardSamples(self.shard_set, self.config.data.train_split)

    @cached_property
    def evaluated(self) -> ShardSamples:
        """Samples that are evaluated."""
        return ShardSamples(self.shard_set, self.config.data.eval_split)

    @cached_property
    def backbone(self) -> Backbone:
        """The frozen network, on the device."""
        return make_backbone(self.config).to(self.device)

    @cached_property
    def fingerprint(self) -> Fingerprint:
        """What the feature store depends on."""
        return features_fingerprint(self.config, self.shard_set, self.backbone)

    @cached_property
    def table(self) -> KnnTable:
        """The neighbour table."""
        return open_table(self.config, self.fingerprint)

    @cached_property
    def bank(self) -> Bank | None:
        """Features of training samples; None when they are computed online."""
        return open_bank(self.config, self.fingerprint, self.device)

    def views(self, views: Views) -> ViewStore | None:
        """What was kept of these views, as eval.features says; None: it is computed."""
        if views not in self._views:
            self._views[views] = open_views(self.config, self.shard_set, self.backbone, views)
        return self._views[views]


_last: tuple[dict[str, Any], Opened] | None = None


def keep_opened(config: Config, device: torch.device) -> Opened:
    """What this process opened last, where it is the same for `config`, else anew; the one before is given up.

    The same: all settings that say what is read and how, and the files that declare shards, features, table and views
    complete, by size and time. Not safe with threads that call it at the same time.
    """
    global _last
    key = _key(config, device)
    if _last is None or _last[0] != key:
        _last = None  # before another is held
        _last = key, Opened(config, device)
    return _last[1]


def _key(config: Config, device: torch.device) -> dict[str, Any]:
    features, e, t = Path(config.features.dir), config.eval, config.train
    declared = [Path(config.data.shards) / "manifest.json", Path(config.backbone.weights)]
    declared += [features / "manifest.json", knn_dir(config) / "manifest.json", *features.glob("views/*/manifest.json")]
    sections = {name: getattr(config, name).model_dump(mode="json") for name in ("data", "backbone", "features", "knn")}
    return {
        **sections,
        "device": str(device),
        "train": (t.features, t.bank),
        "eval": (e.features, e.crop, e.resolution, e.more_resolutions, e.score_images),
        "files": {str(path): (s.st_size, s.st_mtime_ns) for path in declared if path.is_file() and (s := path.stat())},
    }
