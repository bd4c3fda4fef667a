"""A folder of numpy arrays, some for each shard of a split: how the feature store and the neighbour table are kept.

For shard s and kind k there is `s.k.npy`; `parts/s.json` is the shard's done-marker, with the bytes of its arrays, and
`manifest.json` declares the folder complete. Both carry the fingerprint of what went in, and what was made from
something else is refused.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from stego_dist import console
from stego_dist.errors import UserError
from stego_dist.rundir import atomic_path, check_fingerprint, read_json, write_json

MAPPED = 256
"""Files that a reader keeps open."""


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
    write_json(root / "parts" / f"{shard}.json", {**marker, "rows": rows, "bytes": sizes})


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


def declare_complete(
    root: Path, shards: Sequence[str], format: str, fingerprint: Mapping[str, Any], remedy: str, **more: Any
) -> None:
    """Write the manifest: what the done-markers of all shards say, and `more`."""
    markers = [read_json(root / "parts" / f"{shard}.json", f"the done-marker of {shard}", remedy) for shard in shards]
    kinds = sorted(set.intersection(*(set(marker["bytes"]) for marker in markers)))
    manifest = {
        "format": format,
        "fingerprint": dict(fingerprint),
        **more,
        "shards": list(shards),
        "rows": [marker["rows"] for marker in markers],
        "bytes": {kind: [marker["bytes"][kind] for marker in markers] for kind in kinds},
    }
    write_json(root / "manifest.json", manifest)


class ShardArrays:
    """Reads a complete folder by memory map; a sample's id is its running number over the shards in order.

    `what` names it in errors. Raises UserError when it is missing, damaged or of another format, StaleInputError naming
    the fields in which its inputs differ from `fingerprint`. However many shards there are, at most MAPPED files are
    open at a time.
    """

    def __init__(self, root: Path, fingerprint: Mapping[str, Any], remedy: str, *, what: str, format: str) -> None:
        self.root, self.remedy, self.what = root, remedy, what
        manifest = read_json(root / "manifest.json", what, remedy)
        if manifest.get("format") != format:
            raise UserError(f"{root} is of format {manifest.get('format')!r}, expected {format!r}. {remedy}")
        check_fingerprint(manifest["fingerprint"], fingerprint, f"{what} {root}", remedy)
        self.shards: list[str] = manifest["shards"]
        self.kinds: dict[str, list[int]] = manifest["bytes"]
        self.starts = np.cumsum([0, *manifest["rows"]])
        self._check_sizes()
        self._mapped: OrderedDict[tuple[str, int], NDArray[Any]] = OrderedDict()

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __getstate__(self) -> dict[str, Any]:
        """To another process goes what names the files, not their contents."""
        return {**self.__dict__, "_mapped": OrderedDict()}

    def array(self, kind: str, shard: int) -> NDArray[Any]:
        """An array of a shard by memory map."""
        key = kind, shard
        if key not in self._mapped:
            try:
                self._mapped[key] = np.load(self._file(kind, shard), mmap_mode="r")
            except (OSError, ValueError, EOFError) as error:
                raise self._damaged(str(error)) from None
            if len(self._mapped) > MAPPED:
                self._mapped.popitem(last=False)
        self._mapped.move_to_end(key)
        return self._mapped[key]

    def gather(self, kind: str, ids: NDArray[np.int64]) -> NDArray[Any]:
        """Rows of a kind for sample ids (n,), stacked: (n, …)."""
        shards = np.searchsorted(self.starts, ids, side="right") - 1
        first = self.array(kind, int(shards[0]) if len(shards) else 0)
        found = np.empty((len(ids), *first.shape[1:]), first.dtype)
        for shard in np.unique(shards).tolist():
            mine = shards == shard
            found[mine] = self.array(kind, shard)[ids[mine] - self.starts[shard]]
        return found

    def _file(self, kind: str, shard: int) -> Path:
        return self.root / f"{self.shards[shard]}.{kind}.npy"

    def _damaged(self, why: str) -> UserError:
        return UserError(f"{self.what} {self.root} is damaged: {why}. {self.remedy}")

    def _check_sizes(self) -> None:
        for kind, sizes in self.kinds.items():
            for shard, size in enumerate(sizes):
                path = self._file(kind, shard)
                try:
                    found = path.stat().st_size
                except OSError as error:
                    raise self._damaged(str(error)) from None
                if found != size:
                    raise self._damaged(f"{path} has {found} of {size} bytes")
