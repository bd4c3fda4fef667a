"""Features and neighbour tables that the trials read: built first where they are missing, by what `knn build` calls.

Trials share those of the base configuration. Where keys are varied that they depend on, each combination of their
values has a folder of its own below features.dir; only as many as can be counted are allowed.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from stego_dist import console
from stego_dist.config import Config
from stego_dist.data.manifest import ShardSet
from stego_dist.engine.inputs import features_fingerprint, make_backbone, open_store, open_table
from stego_dist.errors import ConfigError, UserError
from stego_dist.jobs.embed import embed
from stego_dist.jobs.knn import build_table
from stego_dist.jobs.sweep.space import Space, Values, with_values
from stego_dist.jobs.views import view_jobs
from stego_dist.knn.table import knn_dir
from stego_dist.rundir import digest

MADE_FROM = (
    "data.shards",
    "data.train_split",
    "data.resolution",
    "data.image_resize",
    "backbone.",
    "features.",
    "knn.",
)
"""Beginnings of the keys that features and tables depend on."""
NOT = ("knn.positives",)


def shared_keys(space: Space) -> list[str]:
    """Keys of the space that features or tables depend on."""
    return [key for key in space.kinds if key.startswith(MADE_FROM) and key not in NOT]


def combinations(space: Space) -> list[Values]:
    """All combinations of the values of `shared_keys`, [{}] without any. Raises ConfigError: they can't be counted."""
    keys = shared_keys(space)
    known = [space.kinds[key].points() for key in keys]
    endless = [key for key, points in zip(keys, known) if points is None]
    if endless:
        raise ConfigError(
            f"{', '.join(endless)}: every value needs features and a neighbour table of its own, so use choice, grid "
            "or int"
        )
    return [dict(zip(keys, values)) for values in itertools.product(*(points or () for points in known))]


def place_of(base: Config, space: Space, values: Mapping[str, Any]) -> Values:
    """features.dir of a trial with these values, where it is not the base's: {} or {"features.dir": …}."""
    chosen = {key: values[key] for key in shared_keys(space)}
    return {"features.dir": str(Path(base.features.dir) / f"sweep-{digest(chosen)[:12]}")} if chosen else {}


def configs_of(base: Config, space: Space, used: Iterable[Values] | None) -> list[Config]:
    """A configuration for each set of features that trials need; `used`: the trials' values, where they are known."""
    wanted = combinations(space)
    if used is not None:
        keys = shared_keys(space)
        needed = {digest({key: values[key] for key in keys}) for values in used}
        wanted = [values for values in wanted if digest(values) in needed]
    return [with_values(base, {**values, **place_of(base, space, values)}) for values in wanted]


def build_missing(configs: Iterable[Config]) -> None:
    """Build what is missing. Raises UserError, StaleInputError naming what was made from something else."""
    for config in configs:
        if is_there(config):
            continue
        table = build_table(config, embed(config, bank=config.train.features == "bank"))
        console.say(f"neighbour table: {table}")


def is_there(config: Config) -> bool:
    """Whether the neighbour table is complete, and with train.features=bank all that `embed` keeps.

    Raises StaleInputError for what was made from something else.
    """
    shard_set = ShardSet.open(config.data.shards, config.data.storage)
    root = Path(config.features.dir)
    if not (root / "manifest.json").exists() or not (knn_dir(config) / "manifest.json").exists():
        return False
    backbone = make_backbone(config)
    fingerprint = features_fingerprint(config, shard_set, backbone)
    try:
        open_table(config, fingerprint)
        store = open_store(config, fingerprint)
        if config.train.features == "online":
            return True
        return store.has_bank and not any(job.todo for job in view_jobs(config, shard_set, backbone, overwrite=False))
    except UserError as error:
        if type(error) is UserError:  # incomplete
            return False
        raise
