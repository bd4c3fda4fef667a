"""The neighbour table that training reads: for every crop its k nearest crops, itself first.

A folder with, for each shard s of the split, `s.ids.npy` int64 (n, k) and `s.similarities.npy` float32 (n, k), padded
with −1, and `manifest.json` with the fingerprint of the features and of the search settings.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stego_dist.errors import UserError
from stego_dist.knn.search import Neighbours
from stego_dist.rundir import atomic_path, check_fingerprint, read_json, write_json

FORMAT = "stego_dist.knn/1"


def write_part(root: Path, shard: str, neighbours: Neighbours, fingerprint: Mapping[str, Any]) -> None:
    """Write the rows of one shard and, last, its done-marker."""
    for kind in ("ids", "similarities"):
        with atomic_path(root / f"{shard}.{kind}.npy") as tmp, tmp.open("wb") as file:
            np.save(file, getattr(neighbours, kind))
    write_json(root / "parts" / f"{shard}.json", {"fingerprint": dict(fingerprint)})


def is_done(root: Path, shard: str, fingerprint: Mapping[str, Any], remedy: str) -> bool:
    """Whether a shard's rows are there. Raises StaleInputError when they come from other inputs."""
    path = root / "parts" / f"{shard}.json"
    if not path.exists():
        return False
    part = read_json(path, f"the done-marker of shard {shard}", remedy)
    check_fingerprint(part["fingerprint"], fingerprint, f"{root}: shard {shard}", remedy)
    return True


def write_manifest(root: Path, shards: list[str], fingerprint: Mapping[str, Any], **more: Any) -> None:
    """Declare the table complete."""
    write_json(root / "manifest.json", {"format": FORMAT, "shards": shards, "fingerprint": dict(fingerprint), **more})


class KnnTable:
    """Reads a complete table by memory map.

    Raises UserError when it is missing or damaged, StaleInputError naming the fields in which its inputs differ from
    `fingerprint`.
    """

    def __init__(self, root: Path, fingerprint: Mapping[str, Any], remedy: str) -> None:
        manifest = read_json(root / "manifest.json", "the KNN table", remedy)
        if manifest.get("format") != FORMAT:
            raise UserError(f"{root} is of format {manifest.get('format')!r}, expected {FORMAT!r}. {remedy}")
        check_fingerprint(manifest["fingerprint"], fingerprint, f"the KNN table {root}", remedy)
        self.root, self.shards = root, list(manifest["shards"])
        try:
            self._ids = [np.load(root / f"{shard}.ids.npy", mmap_mode="r") for shard in self.shards]
            self._similarities = [np.load(root / f"{s}.similarities.npy", mmap_mode="r") for s in self.shards]
        except (OSError, ValueError, EOFError) as error:
            raise UserError(f"the KNN table {root} is damaged: {error}. {remedy}") from None
        self.starts = np.cumsum([0, *(len(rows) for rows in self._ids)])

    def __len__(self) -> int:
        return int(self.starts[-1])

    def rows(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Neighbours (n, k) of samples (n,), best first, −1 where there are no more."""
        return self._gather(self._ids, ids)

    def similarities(self, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """Cosines (n, k) of those neighbours."""
        return self._gather(self._similarities, ids)

    def _gather(self, arrays: list[Any], ids: NDArray[np.int64]) -> NDArray[Any]:
        shards = np.searchsorted(self.starts, ids, side="right") - 1
        return np.stack([arrays[shard][i - self.starts[shard]] for shard, i in zip(shards, ids)])
