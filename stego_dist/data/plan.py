"""What a build will do: which images go into which shard, and what each shard depends on.

In: a card, the folder of its data set, options. Out: `BuildPlan`, a task for every shard; nothing is written, and of
each split only a few images are read, for an estimate.

1. every split is listed and paired (sources.py), its size estimated (estimate.py);
2. its images are dealt out to shards, every n-th to one shard: all shards get the same number of images, and
   none holds a stretch of one video;
3. each task carries the fingerprint of its inputs: files with sizes and times, options, label map.
"""

from __future__ import annotations

import math
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stego_dist import console
from stego_dist.data.card import Card, source_classes
from stego_dist.data.crops import RANDOM_CROPS, Crops
from stego_dist.data.estimate import SplitEstimate, packed_ratio, tar_overhead
from stego_dist.data.manifest import FORMAT
from stego_dist.data.sources import OnError, Source, find_pairs
from stego_dist.data.storage import LocalStorage, Storage
from stego_dist.errors import ConfigError, UserError
from stego_dist.rundir import digest

_TAR_END = tarfile.RECORDSIZE // 2 + 2 * tarfile.BLOCKSIZE
"""Bytes after a tar's last member, about."""


@dataclass(frozen=True)
class BuildOptions:
    """How a shard set is built. Raises ConfigError for a value out of range."""

    crops: Crops = "none"
    ratio: float = 0.5
    """Side of a crop as a part of the image's."""
    seed: int = 0
    """Of random crops."""
    quality: int = 95
    """Of JPEGs that are encoded anew."""
    shard_bytes: int = 64 * 2**20
    """What a shard should hold about."""
    min_shards: int = 16
    """Shards a split has at least when it has the images, so that readers can share it."""
    on_error: OnError = "fail"
    max_side: int | None = None
    """Images whose longer side is longer are shrunk to it before they are cropped; None: never."""

    def __post_init__(self) -> None:
        for name, fits, wanted in (
            ("ratio", 0 < self.ratio <= 1, "in (0, 1]"),
            ("quality", 1 <= self.quality <= 100, "1 to 100"),
            ("shard_bytes", self.shard_bytes > 0, "positive"),
            ("min_shards", self.min_shards > 0, "positive"),
            ("max_side", self.max_side is None or self.max_side > 0, "positive"),
        ):
            if not fits:
                raise ConfigError(f"{name} must be {wanted}, got {getattr(self, name)}")


@dataclass(frozen=True)
class PackTask:
    """All that `pack_shard` needs to write one shard."""

    root: Path
    """Folder of the raw data set."""
    out: Path
    name: str
    split: str
    card: Card
    options: BuildOptions
    labelled: bool
    sources: tuple[tuple[int, Source], ...]
    """Images with their running numbers in the split."""
    fingerprint: dict[str, Any]
    target: Storage | None = None
    """Where the finished files go; None: they stay in `out`."""

    @property
    def storage(self) -> Storage:
        """Where the finished files are found."""
        return self.target or LocalStorage(self.out)

    @property
    def record_path(self) -> Path:
        """The file that says the shard is done."""
        return self.out / "parts" / f"{self.name}.json"


@dataclass(frozen=True)
class BuildPlan:
    """What a build will write."""

    out: Path
    card: Card
    options: BuildOptions
    tasks: tuple[PackTask, ...]
    estimates: dict[str, SplitEstimate]
    """By split."""

    @property
    def estimated_bytes(self) -> int:
        """Of all tars, about."""
        return sum(estimate.bytes for estimate in self.estimates.values())

    @property
    def num_images(self) -> int:
        """Source images of all splits."""
        return sum(len(task.sources) for task in self.tasks)


def plan_build(
    card: Card,
    source: Path,
    out: Path,
    options: BuildOptions,
    splits: Sequence[str] | None = None,
    lists: Path | None = None,
) -> BuildPlan:
    """List the splits (default: the card's) and deal their images out to shards; `lists` holds their lists.

    Raises UserError: no such folder, and what `find_pairs` raises.
    """
    try:
        if not source.is_dir():
            raise UserError(f"source folder {source} does not exist. {card.where}".rstrip())
    except OSError as error:
        raise UserError(f"source folder {source} cannot be read: {error.strerror}") from None
    source, out = source.absolute(), out.absolute()  # tasks may run in another working directory
    card, splits = source_classes(card, source), list(splits or card.default_splits or card.splits)
    tasks: list[PackTask] = []
    estimates: dict[str, SplitEstimate] = {}
    for split in splits:
        pairs = find_pairs(card, source, split, options.on_error, lists)
        expected = (card.expected or {}).get(split, len(pairs))
        if expected != len(pairs):
            console.warn(f"split {split} of {card.name} has {len(pairs)} images in {source}, expected {expected}")
        listing = [_listing(i, pair) for i, pair in enumerate(pairs)]
        labelled = any(pair.label for pair in pairs)
        estimate = estimates[split] = _estimate(pairs, listing, card, options, labelled)
        for number in range(estimate.shards):
            mine = range(number, len(pairs), estimate.shards)
            fingerprint = _fingerprint(card, options, [listing[i] for i in mine])
            sources = tuple((i, pairs[i]) for i in mine)
            name = f"{split}-{number:05d}"
            tasks.append(PackTask(source, out, name, split, card, options, labelled, sources, fingerprint))
    return BuildPlan(out, card, options, tuple(tasks), estimates)


def _estimate(
    pairs: Sequence[Source], listing: list[list[Any]], card: Card, options: BuildOptions, labelled: bool
) -> SplitEstimate:
    """What a split will hold. The number of shards follows the trial by powers of two only, so that another encoder
    or another image on trial hardly ever changes it, which would make finished shards stale."""
    sizes = [entry[2] + entry[4] for entry in listing]
    samples = len(pairs) * (1 if options.crops == "none" else RANDOM_CROPS)
    overhead = samples * tar_overhead(labelled)
    ratio = packed_ratio(pairs, sizes, card, options, labelled)
    coarse = 2.0 ** round(math.log2(ratio)) * sum(sizes) + overhead
    shards = min(len(pairs), max(math.ceil(coarse / options.shard_bytes), options.min_shards))
    return SplitEstimate(len(pairs), samples, shards, round(ratio * sum(sizes)) + overhead + shards * _TAR_END)


def _listing(number: int, source: Source) -> list[Any]:
    """What tells one state of a source from another: number, key, size and time of image and label."""
    return [number, source.key, *_state(source.image), *_state(source.label)]


def _state(path: Path | None) -> tuple[int, int]:
    """Size and time of a file; zeros for one that is not there, which the packer will reject by name."""
    try:
        stat = path.stat() if path else None
    except OSError:
        stat = None
    return (stat.st_size, stat.st_mtime_ns) if stat else (0, 0)


def _fingerprint(card: Card, options: BuildOptions, listing: list[Any]) -> dict[str, Any]:
    """Everything the bytes of a shard depend on, as JSON gives it back."""
    return {
        "format": FORMAT,
        "crops": options.crops,
        "ratio": options.ratio,
        "seed": options.seed,
        "quality": options.quality,
        "max_side": options.max_side,
        "label_map": None if card.label_map is None else sorted([*pair] for pair in card.label_map.items()),
        "ignored": sorted(card.ignored),
        "encoding": card.encoding,
        "num_classes": card.num_classes,
        "images": len(listing),
        "listing": digest(listing),
    }
