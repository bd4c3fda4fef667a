"""The feature store: what one pass of the frozen backbone over a split leaves behind.

A folder with, for each shard s of the split, numpy files that are read by memory map:

    s.descriptors.npy  float16 (n, D)         L2-normalised spatial means, for KNN (or float32; see descriptors.py)
    s.source.npy       int64   (n,)           number of the source image of each crop
    s.bank.npy         float16 (n, C, h, w)   dense features                      (the bank, optional)
    s.labels.npy       uint8   (n, R, R)      labels at training size, 255 ignored (with the bank, if labelled)

and `parts/s.json`, the done-marker of a shard, and `manifest.json` with the fingerprint of everything that went
in. A sample's id is its running number over the shards in order, the same as in the shard set.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stego_dist.errors import UserError
from stego_dist.rundir import read_json
from stego_dist.shardarrays import ShardArrays, declare_complete, read_marker, write_batches

FAMILY = "stego_dist.features"
FORMAT = f"{FAMILY}/2"
REMEDY = "Compute it again with: stego-dist features CONFIG --overwrite"
KINDS = ("descriptors", "source", "bank", "labels")


@dataclass(frozen=True)
class ShardFeatures:
    """The arrays of a shard, or of a batch of its samples; see the module's docstring."""

    descriptors: NDArray[Any]
    source: NDArray[np.int64]
    bank: NDArray[np.float16] | None
    labels: NDArray[np.uint8] | None


def write_shard(root: Path, shard: str, features: ShardFeatures, fingerprint: Mapping[str, Any]) -> None:
    """Write the arrays of a shard and, last, its done-marker; each atomically."""
    write_shard_in_batches(root, shard, len(features.source), [features], fingerprint)


def write_shard_in_batches(
    root: Path, shard: str, samples: int, batches: Iterable[ShardFeatures], fingerprint: Mapping[str, Any]
) -> None:
    """The same from batches of its samples, each written as it comes."""
    arrays = ({kind: getattr(batch, kind) for kind in KINDS} for batch in batches)
    write_batches(root, shard, samples, arrays, {"fingerprint": dict(fingerprint)})


def refuse_others(root: Path) -> None:
    """Raise UserError when `root` holds something that is no feature store, finished or not."""
    path = root / "manifest.json"
    if path.exists():
        manifest = read_json(path, "the manifest", "Remove the folder by hand.")
        ours = isinstance(manifest, dict) and str(manifest.get("format")).startswith(f"{FAMILY}/")
    else:
        entries = list(root.iterdir()) if root.exists() else []
        ours = (root / "parts").is_dir() or not entries
        ours = ours and all(
            entry.name in ("parts", "knn", "views") or entry.suffix in (".npy", ".tmp") for entry in entries
        )
    if not ours:
        raise UserError(
            f"features.dir={root} is not a feature store (no manifest.json of format {FAMILY}, or other files beside "
            "arrays), so --overwrite does not delete it; choose another folder, or remove this one by hand"
        )


def is_done(root: Path, shard: str, fingerprint: Mapping[str, Any], bank: bool, remedy: str) -> bool:
    """Whether a shard is there whole, with the bank if that is wanted. Raises StaleInputError for another input's."""
    marker = read_marker(root, shard, fingerprint, remedy)
    return marker is not None and ("bank" in marker["bytes"] or not bank)


def write_manifest(root: Path, shards: list[str], fingerprint: Mapping[str, Any], **more: Any) -> None:
    """Declare the store complete."""
    declare_complete(root, shards, FORMAT, fingerprint, REMEDY, **more)


class FeatureStore(ShardArrays):
    """Reads a complete store by memory map; what is refused, and how, is ShardArrays'. `kinds` are those of KINDS."""

    def __init__(self, root: Path, fingerprint: Mapping[str, Any], remedy: str) -> None:
        super().__init__(root, fingerprint, remedy, what="the feature store", format=FORMAT)

    @property
    def has_bank(self) -> bool:
        """Whether dense features are there for every shard."""
        return "bank" in self.kinds

    @property
    def has_labels(self) -> bool:
        """Whether labels at training size are there for every shard."""
        return "labels" in self.kinds

    @property
    def sources(self) -> NDArray[np.int64]:
        """Source image of every sample, (N,)."""
        return np.concatenate([self.array("source", shard) for shard in range(len(self.shards))])

    def rows(self, kind: str, ids: NDArray[np.int64]) -> NDArray[Any]:
        """Rows of a kind for sample ids (n,), stacked: (n, …)."""
        return self.gather(kind, ids)

    def descriptors(self, first: int, last: int) -> NDArray[Any]:
        """Those of ids first … last − 1 as they are stored, copied: (last − first, D); they may span shards."""
        touched = range(
            int(np.searchsorted(self.starts, first, side="right")) - 1,
            int(np.searchsorted(self.starts, last, side="left")),
        )
        return np.concatenate(
            [self.array("descriptors", s)[max(first - self.starts[s], 0) : last - self.starts[s]] for s in touched]
        )
