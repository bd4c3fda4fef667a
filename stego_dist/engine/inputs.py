"""From configuration to the things that training and evaluation read, and the fingerprints that tie them together."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import timm
import torch

from stego_dist import __version__, console
from stego_dist.config import Config
from stego_dist.data.manifest import ShardSet
from stego_dist.data.samples import ShardSamples
from stego_dist.errors import ConfigError, StaleInputError, UserError
from stego_dist.features.store import FeatureStore
from stego_dist.features.views import Views, ViewStore
from stego_dist.knn.table import KnnTable, knn_dir, knn_fingerprint
from stego_dist.models.backbone import Backbone
from stego_dist.models.segmenter import Segmenter
from stego_dist.rundir import Fingerprint, code_revision

REMEDY = "Build it with: stego-dist knn build CONFIG (add --overwrite to replace one made from something else)"
VIEWS_REMEDY = "Compute them again with: stego-dist features CONFIG --overwrite."
AUTOCAST = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def training_precision(config: Config, device: torch.device) -> torch.autocast:
    """The arithmetic of forwards by train.precision, as a context."""
    return autocast(config.train.precision, device)


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """The arithmetic of forwards at a precision (fp32, bf16, fp16), as a context."""
    dtype = AUTOCAST[precision]
    return torch.autocast(device.type, dtype, enabled=dtype is not None)


def make_backbone(config: Config) -> Backbone:
    """The frozen backbone, after checking that the training resolution fits it."""
    b = config.backbone
    backbone = Backbone(
        b.name,
        weights=b.weights,
        feature=b.feature,
        pos_interp=b.pos_interp,
        stride=b.stride,
        options=b.options,
    )
    backbone.check_resolution("data.resolution", config.data.resolution)
    return backbone


def make_segmenter(config: Config, dim: int, shard_set: ShardSet) -> Segmenter:
    """A fresh segmenter whose initial weights are a function of the seed alone."""
    split = shard_set.split(config.data.train_split)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return Segmenter(
            dim=dim,
            code_dim=config.head.code_dim,
            projection=config.head.projection,
            num_clusters=cluster_count(config, shard_set),
            num_classes=shard_set.num_classes if split.labelled else None,
        )


def cluster_count(config: Config, shard_set: ShardSet) -> int:
    """clusters.count, or the number of classes of the shard set. Raises UserError when neither is known."""
    count = config.clusters.count or shard_set.num_classes
    if not count:
        raise ConfigError(
            f"clusters.count: the shard set {shard_set.root} has no classes, so say how many clusters to look for "
            "(for instance clusters.count=27)"
        )
    return count


def check_enough(samples: ShardSamples) -> None:
    """Raise UserError when there is nothing to compare."""
    if len(samples) < 2:
        raise UserError(
            f"split {samples.split.name} of {samples.shard_set.root} has {len(samples)} sample; training "
            "compares images and needs at least 2; build the shards with --crops five to get five from one image"
        )


def features_fingerprint(config: Config, shard_set: ShardSet, backbone: Backbone) -> Fingerprint:
    """Everything that the feature store depends on."""
    return fingerprint_over(config, shard_set.split(config.data.train_split).fingerprint, backbone)


def fingerprint_over(config: Config, shards: str, backbone: Backbone) -> Fingerprint:
    """The same by the training split's own fingerprint."""
    return {
        "data.train_split": config.data.train_split,
        "shards": shards,
        "data.resolution": config.data.resolution,
        **_backbone_fields(config, backbone),
        "features.descriptors": config.features.descriptors,
    }


def _backbone_fields(config: Config, backbone: Backbone) -> Fingerprint:
    """What turns an image of some size into features."""
    return {
        "data.image_resize": config.data.image_resize,
        "backbone.name": backbone.name,
        "backbone weights": backbone.weights_digest(),
        "backbone.feature": config.backbone.feature,
        "backbone.pos_interp": config.backbone.pos_interp,
        "backbone.stride": config.backbone.stride,
        "backbone.options": config.backbone.options or None,
        "features.precision": config.features.precision,
    }


def views_fingerprint(config: Config, views: Views, shard_set: ShardSet, backbone: Backbone) -> Fingerprint:
    """Everything that a view store depends on."""
    return {
        "split": views.split,
        "shards": shard_set.split(views.split).fingerprint,
        "resolution": views.resolution,
        "crop": "centre",
        "views": list(views.kinds),
        "images": views.images,
        **_backbone_fields(config, backbone),
    }


def views_dir(config: Config, views: Views) -> Path:
    """Where a view store lies."""
    return Path(config.features.dir) / "views" / views.name


def evaluated_views(config: Config) -> list[Views]:
    """What evaluation and validation look at: the evaluated split at each resolution, straight and mirrored.

    None where the images keep sizes of their own (eval.crop=none), or nothing is to be kept (eval.features=online).
    """
    if config.eval.crop != "centre" or config.eval.features == "online":
        return []
    resolutions = dict.fromkeys((config.eval.resolution, *config.eval.more_resolutions))
    return [Views(config.data.eval_split, resolution, ("straight", "mirrored")) for resolution in resolutions]


def scored_views(config: Config) -> Views:
    """What the label-free score looks at: some training images, straight and enlarged."""
    return Views(config.data.train_split, config.data.resolution, ("straight", "zoomed"), config.eval.score_images)


def kept_views(config: Config) -> list[Views]:
    """All that the features job keeps beside the bank; nothing with eval.features=online."""
    return [] if config.eval.features == "online" else [*evaluated_views(config), scored_views(config)]


def open_store(config: Config, fingerprint: Fingerprint) -> FeatureStore:
    """The feature store that the configuration names; refused when its inputs differ."""
    return FeatureStore(Path(config.features.dir), fingerprint, REMEDY)


def open_table(config: Config, fingerprint: Fingerprint) -> KnnTable:
    """The neighbour table that the configuration names; refused when its inputs differ."""
    return KnnTable(knn_dir(config), knn_fingerprint(config, fingerprint), REMEDY)


def open_views(config: Config, shard_set: ShardSet, backbone: Backbone, views: Views) -> ViewStore | None:
    """What was kept of these views; None: the backbone computes it.

    With eval.features=auto that is where nothing was kept, or only of another input, which is said. With
    eval.features=bank both are refused (UserError, StaleInputError).
    """
    if views not in kept_views(config):
        return None
    root, insist = views_dir(config, views), config.eval.features == "bank"
    if not insist and not (root / "manifest.json").exists():
        return None
    try:
        return ViewStore(root, views_fingerprint(config, views, shard_set, backbone), VIEWS_REMEDY)
    except StaleInputError as error:
        if insist:
            raise
        console.say(f"{error} Until then the backbone computes them.")
        return None


def provenance(inputs: Fingerprint) -> dict[str, Any]:
    """What a run is made of, for its record; `inputs` is the fingerprint of its features."""
    return {
        "stego_dist": __version__,
        "code_revision": code_revision(),
        "torch": torch.__version__,
        "timm": timm.__version__,
        "python": platform.python_version(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "inputs": inputs,
    }


def share_of_rank(config: Config, rank: int, ranks: int) -> tuple[range, range]:
    """A rank's slots of the global batch and its groups. Raises ConfigError saying how many ranks would fit."""
    groups, size, parts = config.groups, config.loss.group_size, config.train.accumulate
    if groups % (ranks * parts):
        fitting = " or ".join(str(n) for n in range(1, groups + 1) if groups % (n * parts) == 0)
        cut = f" in {parts} parts each (train.accumulate)" if parts > 1 else ""
        raise ConfigError(
            f"train.batch_size: {config.train.batch_size} images are {groups} group(s) of {size} (loss.group_size), "
            f"which {ranks} processes can't share{cut}; with this batch use {fitting} process(es), or set "
            f"train.batch_size to a multiple of {size * ranks * parts}"
        )
    each = groups // ranks
    mine = range(rank * each, (rank + 1) * each)
    return range(mine.start * size, mine.stop * size), mine
