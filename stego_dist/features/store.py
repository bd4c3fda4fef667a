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

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stego_dist.errors import UserError
from stego_dist.rundir import atomic_path, check_fingerprint, read_json, write_json

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
    for kind in KINDS:
        array = getattr(features, kind)
        if array is not None:
            with atomic_path(root / f"{shard}.{kind}.npy") as tmp, tmp.open("wb") as file:
                np.save(file, array)
    part = {
        "samples": len(features.source),
        "bank": features.bank is not None,
        "fingerprint": dict(fingerprint),
    }
    write_json(root / "parts" / f"{shard}.json", part)


def is_done(root: Path, shard: str, fingerprint: Mapping[str, Any], bank: bool, remedy: str) -> bool:
    """Whether a shard is there, with the bank if that is wanted. Raises StaleInputError for another input's."""
    path = root / "parts" / f"{shard}.json"
    if not path.exists():
        return False
    part = read_json(path, f"the done-marker of shard {shard}", remedy)
    check_fingerprint(part["fingerprint"], fingerprint, f"{path.parent.parent}: shard {shard}", remedy)
    return bool(part["bank"]) or not bank


def write_manifest(root: Path, shards: list[str], fingerprint: Mapping[str, Any], **more: Any) -> None:
    """Declare the store complete."""
    write_json(root / "manifest.json", {"format": FORMAT, "shards": shards, "fingerprint": dict(fingerprint), **more})


class FeatureStore:
    """Reads a complete store by memory map.

    Raises UserError when it is missing or incomplete, StaleInputError naming the fields in which its inputs differ
    from `fingerprint`.
    """

    def __init__(self, root: Path, fingerprint: Mapping[str, Any], remedy: str) -> None:
        self.root, self.remedy = root, remedy
        manifest = read_json(root / "manifest.json", "the feature store", remedy)
        if manifest.get("format") != FORMAT:
            raise UserError(f"{root} is of format {manifest.get('format')!r}, expected {FORMAT!r}. {remedy}")
        check_fingerprint(manifest["fingerprint"], fingerprint, f"the feature store {root}", remedy)
        self.shards: list[str] = manifest["shards"]
        self._arrays: dict[str, list[Any]] = {}
        self.starts = np.cumsum([0, *(len(array) for array in self._open("source"))])

    def __len__(self) -> int:
        return int(self.starts[-1])

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
        arrays = self._open(kind)
        shards = np.searchsorted(self.starts, ids, side="right") - 1
        return np.stack([arrays[shard][i - self.starts[shard]] for shard, i in zip(shards, ids)])

    def blocks(self, size: int) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Descriptors in order, as (first id, (n, D)) with n ≤ size; a block may span shards."""
        arrays = self._open("descriptors")
        for first in range(0, len(self), size):
            last = min(first + size, len(self))
            touched = range(
                int(np.searchsorted(self.starts, first, side="right")) - 1,
                int(np.searchsorted(self.starts, last, side="left")),
            )
            pieces = [arrays[s][max(first - self.starts[s], 0) : last - self.starts[s]] for s in touched]
            yield first, np.concatenate(pieces)

    def _open(self, kind: str) -> list[Any]:
        if kind not in self._arrays:
            try:
                files = [self.root / f"{shard}.{kind}.npy" for shard in self.shards]
                self._arrays[kind] = [np.load(file, mmap_mode="r") for file in files]
            except (OSError, ValueError, EOFError) as error:
                raise UserError(f"the feature store {self.root} is damaged: {error}. {self.remedy}") from None
        return self._arrays[kind]
