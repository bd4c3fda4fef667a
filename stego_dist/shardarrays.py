"""A folder of numpy arrays, some for each shard of a split: how the feature store and the neighbour table are kept.

For shard s and kind k there is `s.k.npy`; `parts/s.json` is the shard's done-marker, with the bytes of its arrays, and
`manifest.json` declares the folder complete. Both carry the fingerprint of what went in, and what was made from
something else is refused.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from stego_dist import console
from stego_dist.errors import UserError
from stego_dist.rundir import atomic_path, check_fingerprint, read_json, write_json


def write_arrays(root: Path, shard: str, arrays: Mapping[str, NDArray[Any] | None], marker: Mapping[str, Any]) -> None:
    """Write the arrays of a shard by kind (None: there is none) and, last, its done-marker; each atomically."""
    rows = next(len(array) for array in arrays.values() if array is not None)
    write_batches(root, shard, rows, [arrays], marker)


def write_batches(
    root: Path,
    shard: str,
    rows: int,
    batches: Iterable[Mapping[str, NDArray[Any] | None]],
    marker: Mapping[str, Any],
) -> None:
    """Write the arrays of a shard, `rows` in all, as their batches come, and, last, its done-marker; each atomically.

    Not by memory map: on a full disk that would kill the process instead of raising OSError.
    """
    sizes: dict[str, int] = {}
    with ExitStack() as stack:
        files: dict[str, BinaryIO] = {}
        for batch in batches:
            for kind, array in batch.items():
                if array is None:
                    continue
                if kind not in files:
                    tmp = stack.enter_context(atomic_path(root / f"{shard}.{kind}.npy"))
                    files[kind] = stack.enter_context(tmp.open("wb"))
                    header = np.lib.format.header_data_from_array_1_0(array)
                    np.lib.format.write_array_header_1_0(files[kind], {**header, "shape": (rows, *array.shape[1:])})
                files[kind].write(np.ascontiguousarray(array).data)
        for kind, file in files.items():
            sizes[kind] = file.tell()
    write_json(root / "parts" / f"{shard}.json", {**marker, "bytes": sizes})


def read_marker(root: Path, shard: str, fingerprint: Mapping[str, Any], remedy: str) -> dict[str, Any] | None:
    """The done-marker of a shard; None when it is not done, or when an array has not the size that was written.

    Raises StaleInputError when it is another input's.
    """
    path = root / "parts" / f"{shard}.json"
    if not path.exists():
        return None
    marker: dict[str, Any] = read_json(path, f"the done-marker of shard {shard}", remedy)
    check_fingerprint(marker["fingerprint"], fingerprint, f"{root}: shard {shard}", remedy)
    for kind, size in marker["bytes"].items():
        array = root / f"{shard}.{kind}.npy"
        found = array.stat().st_size if array.exists() else 0
        if found != size:
            console.warn(f"{array} has {found} of {size} bytes: shard {shard} is computed again")
            return None
    return marker


def remove_leftovers(root: Path, shards: Collection[str]) -> None:
    """Delete what writers that were killed left of these shards under temporary names."""
    for left in (*root.glob(".*.tmp"), *root.glob("parts/.*.tmp")):
        if left.name.split(".")[1] in shards:
            left.unlink(missing_ok=True)


class ShardArrays:
    """Reads a complete folder by memory map; a sample's id is its running number over the shards in order.

    `what` names it in errors. Raises UserError when it is missing, damaged or of another format, StaleInputError naming
    the fields in which its inputs differ from `fingerprint`.
    """

    def __init__(
        self, root: Path, fingerprint: Mapping[str, Any], remedy: str, *, what: str, format: str, counted: str
    ) -> None:
        self.root, self.remedy, self.what = root, remedy, what
        manifest = read_json(root / "manifest.json", what, remedy)
        if manifest.get("format") != format:
            raise UserError(f"{root} is of format {manifest.get('format')!r}, expected {format!r}. {remedy}")
        check_fingerprint(manifest["fingerprint"], fingerprint, f"{what} {root}", remedy)
        self.shards: list[str] = manifest["shards"]
        self._arrays: dict[str, list[Any]] = {}
        self.starts = np.cumsum([0, *(len(array) for array in self._open(counted))])

    def __len__(self) -> int:
        return int(self.starts[-1])

    def _gather(self, kind: str, ids: NDArray[np.int64]) -> NDArray[Any]:
        """Rows of a kind for sample ids (n,), stacked: (n, …)."""
        arrays = self._open(kind)
        shards = np.searchsorted(self.starts, ids, side="right") - 1
        return np.stack([arrays[shard][i - self.starts[shard]] for shard, i in zip(shards, ids)])

    def _open(self, kind: str) -> list[Any]:
        if kind not in self._arrays:
            try:
                files = [self.root / f"{shard}.{kind}.npy" for shard in self.shards]
                self._arrays[kind] = [np.load(file, mmap_mode="r") for file in files]
            except (OSError, ValueError, EOFError) as error:
                raise UserError(f"{self.what} {self.root} is damaged: {error}. {self.remedy}") from None
        return self._arrays[kind]
