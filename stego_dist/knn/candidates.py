"""What a share of the database found for a shard's queries, on disk until all shares have answered.

`candidates-DIGEST/SHARD.FIRST-LAST.npy`: (n, 2, k) float64, similarities and ids (exact in float64), for the share of
ids FIRST … LAST − 1; DIGEST is that of the table's fingerprint, so that another table's are never merged.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stego_dist.knn.ranking import Best, merge
from stego_dist.rundir import atomic_path, digest

ROWS = 8192
"""Queries whose lists are merged at a time."""


class Candidates:
    """The folder of candidates of one table below `root`."""

    def __init__(self, root: Path, fingerprint: Mapping[str, Any]) -> None:
        self.root = root / f"candidates-{digest(dict(fingerprint))[:12]}"

    def done(self, shard: str, share: range) -> bool:
        """Whether a share has answered the queries of a shard."""
        return self._path(shard, share).exists()

    def write(self, shard: str, share: range, found: Iterator[Best], queries: int, k: int) -> None:
        """Keep the lists of a shard's `queries` queries, which come in pieces, in order."""
        path = self._path(shard, share)
        header = {"descr": "<f8", "fortran_order": False, "shape": (queries, 2, k)}
        with atomic_path(path) as tmp, tmp.open("wb") as file:
            np.lib.format.write_array_header_1_0(file, header)
            for best in found:
                file.write(np.stack([best.similarities, best.ids], 1).data)

    def merged(self, shard: str, shares: Sequence[range]) -> Iterator[tuple[int, Best]]:
        """The lists over all shares, in pieces: (place of the first query in the shard, lists)."""
        arrays = [np.load(self._path(shard, share), mmap_mode="r") for share in shares]
        for start in range(0, len(arrays[0]), ROWS):
            pieces = [np.array(array[start : start + ROWS]) for array in arrays]
            yield start, merge([Best(piece[:, 0], piece[:, 1].astype(np.int64)) for piece in pieces])

    def drop(self, shard: str, shares: Sequence[range]) -> None:
        """Remove a shard's candidates, which are in the table now."""
        for share in shares:
            self._path(shard, share).unlink(missing_ok=True)

    def drop_all(self) -> None:
        """Remove the candidates of every table below the root."""
        for folder in self.root.parent.glob("candidates-*"):
            shutil.rmtree(folder, ignore_errors=True)

    def _path(self, shard: str, share: range) -> Path:
        return self.root / f"{shard}.{share.start}-{share.stop}.npy"
