"""The neighbour table that training reads: for every crop its k nearest crops, itself first.

A folder with, for each shard s of the split, `s.ids.npy` int64 (n, k) and `s.similarities.npy` float32 (n, k), padded
with −1, and `manifest.json` with the fingerprint of the features and of the search settings.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stego_dist.config import Config
from stego_dist.knn.ranking import Neighbours
from stego_dist.rundir import Fingerprint, read_json, write_json
from stego_dist.shardarrays import ShardArrays, declare_complete, read_marker, write_arrays

FORMAT = "stego_dist.knn/2"
REMEDY = "Build the table again with: stego-dist knn build CONFIG --overwrite"


def knn_dir(config: Config) -> Path:
    """Where the neighbour table lies."""
    return Path(config.features.dir) / "knn"


def knn_fingerprint(config: Config, features: Fingerprint) -> Fingerprint:
    """Everything that the neighbour table depends on; memory, workers and library are not among it.

    With knn.method=auto the method is the one that was chosen when the table was begun.
    """
    knn = config.knn
    method = chosen_method(knn_dir(config)) if knn.method == "auto" else knn.method
    approximate = {"knn.ivf_code": knn.ivf_code, "knn.recall": knn.recall} if method == "ivf" else {}
    return {
        **features,
        "knn.k": knn.k,
        "knn.exclude_same_image": knn.exclude_same_image,
        "knn.min_similarity": knn.min_similarity,
        "knn.method": method,
        **approximate,
    }


def write_part(root: Path, shard: str, neighbours: Neighbours, fingerprint: Mapping[str, Any]) -> None:
    """Write the rows of one shard and, last, its done-marker."""
    arrays: dict[str, NDArray[Any]] = {"ids": neighbours.ids, "similarities": neighbours.similarities}
    write_arrays(root, shard, arrays, {"fingerprint": dict(fingerprint)})


def is_done(root: Path, shard: str, fingerprint: Mapping[str, Any], remedy: str) -> bool:
    """Whether a shard's rows are there. Raises StaleInputError when they come from other inputs."""
    return read_marker(root, shard, fingerprint, remedy) is not None


def read_rows(root: Path, shard: str) -> NDArray[np.int64]:
    """Neighbours (n, k) of a finished shard's crops, by memory map; the table need not be complete."""
    rows: NDArray[np.int64] = np.load(root / f"{shard}.ids.npy", mmap_mode="r")
    return rows


def write_manifest(root: Path, shards: list[str], fingerprint: Mapping[str, Any], **more: Any) -> None:
    """Declare the table complete."""
    declare_complete(root, shards, FORMAT, fingerprint, REMEDY, **more)


def choose_method(root: Path, method: str) -> None:
    """Record how the table is searched, before it is begun: a job that is started again goes on in the same way."""
    write_json(root / "method.json", {"method": method})


def chosen_method(root: Path) -> str | None:
    """What was recorded, None when no table was begun."""
    path = root / "method.json"
    return str(read_json(path, "the table's method", REMEDY)["method"]) if path.exists() else None


class KnnTable(ShardArrays):
    """Reads a complete table by memory map; what is refused, and how, is ShardArrays'."""

    def __init__(self, root: Path, fingerprint: Mapping[str, Any], remedy: str) -> None:
        super().__init__(root, fingerprint, remedy, what="the KNN table", format=FORMAT)

    def rows(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Neighbours (n, k) of samples (n,), best first, −1 where there are no more."""
        return self.gather("ids", ids)

    def similarities(self, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """Cosines (n, k) of those neighbours."""
        return self.gather("similarities", ids)

    def blocks(self, size: int) -> Iterator[tuple[int, NDArray[np.int64], NDArray[np.float32]]]:
        """All rows in order as (first id, neighbours (n, k), similarities (n, k)) with n ≤ size, inside shards."""
        for shard, start in enumerate(self.starts[:-1].tolist()):
            ids, similarities = self.array("ids", shard), self.array("similarities", shard)
            for first in range(0, len(ids), size):
                yield start + first, ids[first : first + size], similarities[first : first + size]
