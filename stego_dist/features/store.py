"""The feature store: what one pass of the frozen backbone over a split leaves behind.

A folder with, for each shard s of the split, numpy files that are read by memory map:

    s.descriptors.npy  float32 (n, D)         L2-normalised spatial means, for KNN
    s.source.npy       int64   (n,)           number of the source image of each crop
    s.bank.npy         float16 (n, C, h, w)   dense features                      (the bank, optional)
    s.labels.npy       uint8   (n, R, R)      labels at training size, 255 ignored (with the bank, if labelled)

and `parts/s.json`, the done-marker of a shard, and `manifest.json` with the fingerprint of everything that went
in. A sample's id is its running number over the shards in order, the same as in the shard set.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stego_dist.rundir import write_json
from stego_dist.shardarrays import ShardArrays, read_marker, write_arrays

FORMAT = "stego_dist.features/1"
KINDS = ("descriptors", "source", "bank", "labels")


@dataclass(frozen=True)
class ShardFeatures:
    """The arrays of one shard, see the module's docstring."""

    descriptors: NDArray[np.float32]
    source: NDArray[np.int64]
    bank: NDArray[np.float16] | None
    labels: NDArray[np.uint8] | None


def write_shard(root: Path, shard: str, features: ShardFeatures, fingerprint: Mapping[str, Any]) -> None:
    """Write the arrays of a shard and, last, its done-marker; each atomically."""
    marker = {
        "samples": len(features.source),
        "bank": features.bank is not None,
        "fingerprint": dict(fingerprint),
    }
    write_arrays(root, shard, {kind: getattr(features, kind) for kind in KINDS}, marker)


def is_done(root: Path, shard: str, fingerprint: Mapping[str, Any], bank: bool, remedy: str) -> bool:
    """Whether a shard is there, with the bank if that is wanted. Raises StaleInputError for another input's."""
    marker = read_marker(root, shard, fingerprint, remedy)
    return marker is not None and (bool(marker["bank"]) or not bank)


def write_manifest(root: Path, shards: list[str], fingerprint: Mapping[str, Any], **more: Any) -> None:
    """Declare the store complete."""
    write_json(root / "manifest.json", {"format": FORMAT, "shards": shards, "fingerprint": dict(fingerprint), **more})


class FeatureStore(ShardArrays):
    """Reads a complete store by memory map; what is refused, and how, is ShardArrays'."""

    def __init__(self, root: Path, fingerprint: Mapping[str, Any], remedy: str) -> None:
        super().__init__(root, fingerprint, remedy, what="the feature store", format=FORMAT, counted="source")

    @property
    def has_bank(self) -> bool:
        """Whether dense features are there for every shard."""
        return all((self.root / f"{shard}.bank.npy").exists() for shard in self.shards)

    @property
    def has_labels(self) -> bool:
        """Whether labels at training size are there for every shard."""
        return all((self.root / f"{shard}.labels.npy").exists() for shard in self.shards)

    @property
    def sources(self) -> NDArray[np.int64]:
        """Source image of every sample, (N,)."""
        return np.concatenate(self._open("source"))

    def rows(self, kind: str, ids: NDArray[np.int64]) -> NDArray[Any]:
        """Rows of `descriptors`, `bank` or `labels` for sample ids (n,), stacked: (n, …)."""
        return self._gather(kind, ids)

    def descriptors(self, first: int, last: int) -> NDArray[Any]:
        """Those of ids first … last − 1 as they are stored, copied: (last − first, D); they may span shards."""
        arrays = self._open("descriptors")
        touched = range(
            int(np.searchsorted(self.starts, first, side="right")) - 1,
            int(np.searchsorted(self.starts, last, side="left")),
        )
        return np.concatenate([arrays[s][max(first - self.starts[s], 0) : last - self.starts[s]] for s in touched])
