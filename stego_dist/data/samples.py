"""Random access to the samples of a split, by their offsets in the tars.

In: a shard set and the name of a split. Out: the bytes, names and views of sample i, where i runs over the
shards in order.

1. the index files are read once, and their numbers joined over all shards;
2. a sample is one positioned read of the tar: `pread` in a folder, a ranged request elsewhere (storage/);
3. a view decodes the bytes and cuts the training square (transforms.py).

Safe with threads, forks and pickling.
"""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from stego_dist.data.manifest import Shard, ShardSet
from stego_dist.data.sources import open_image
from stego_dist.data.storage.base import PerProcess
from stego_dist.data.transforms import Crop, Resize, label_view, to_training_view
from stego_dist.errors import UserError

A = TypeVar("A")
B = TypeVar("B")
INDEX_ARRAYS = {"image": np.int64, "label": np.int64, "source": np.int64, "crop": np.int16}


class ShardSamples:
    """The N samples of a split, in the order of the manifest's shards."""

    def __init__(self, shard_set: ShardSet, split: str) -> None:
        """Read the indices. Raises UserError: no such split, an index that is missing or damaged."""
        self.shard_set, self.split = shard_set, shard_set.split(split)
        self._pool = PerProcess(partial(ThreadPoolExecutor, shard_set.storage.parallel))
        indices = self._each(self._load_index, self.split.shards)
        joined = {name: np.concatenate([index[name] for index in indices]) for name in INDEX_ARRAYS}
        self.source: NDArray[np.int64] = joined["source"]
        """(N,) running number of the source image in the split's listing; rejected images leave gaps."""
        self.crop: NDArray[np.int16] = joined["crop"]
        """(N,) number of the crop of its source image."""
        self.shard_starts: NDArray[np.int64] = np.cumsum([0, *(s.samples for s in self.split.shards)], dtype=np.int64)
        """(shards + 1,) index of every shard's first sample, and N."""
        self._spans = {".jpg": joined["image"], ".label.png": joined["label"]}
        self._names: tuple[int, NDArray[np.str_]] | None = None

    def __len__(self) -> int:
        return len(self.source)

    def __reduce__(self) -> tuple[type[ShardSamples], tuple[ShardSet, str]]:
        return ShardSamples, (self.shard_set, self.split.name)

    def image_bytes(self, i: int) -> bytes:
        """The JPEG of sample `i`. Raises UserError naming shard and sample when it cannot be read."""
        return self._read(i, ".jpg")

    def label_bytes(self, i: int) -> bytes | None:
        """The PNG of sample `i`'s class ids (8 bits, 255 ignored); None without labels."""
        return self._read(i, ".label.png") if self._spans[".label.png"][i, 0] >= 0 else None

    def header_offset(self, i: int) -> int:
        """Where sample `i` begins in its tar: the header of its image, its first member."""
        return int(self._spans[".jpg"][i, 0]) - tarfile.BLOCKSIZE

    def end_of_run(self, i: int, count: int) -> int | None:
        """Where in its tar the samples `i` to `i + count - 1` of one shard end; None: at the end of the file."""
        after = i + count
        shard, _ = self._locate(i)
        return self.header_offset(after) if after < self.shard_starts[shard + 1] else None

    def key(self, i: int) -> str:
        """The sample's name in the tar."""
        return f"{self.source[i]:09d}_{self.crop[i]}"

    def name(self, i: int) -> str:
        """The source image's relative path without suffix."""
        shard, start = self._locate(i)
        names = self._names  # of one shard at a time: names are long, and asked for in order or seldom
        if names is None or names[0] != shard:
            with np.load(io.BytesIO(self.shard_set.storage.read(self.split.shards[shard].index))) as index:
                names = self._names = shard, index["name"]
        return str(names[1][i - start])

    def view(
        self, i: int, resolution: int, resize: Resize, crop: Crop = "centre"
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The training square of sample `i`: image uint8 (3, R, R), and label uint8 (R, R) or None; or all of both.

        Raises UserError naming shard and sample when either cannot be read.
        """
        image = self.image_view(i, resolution, resize, crop)
        data = self.label_bytes(i)
        if data is None:
            return image, None
        return image, label_view(decode_label(data, self.describe(i, ".label.png")), resolution, crop)

    def image_view(self, i: int, resolution: int, resize: Resize, crop: Crop = "centre") -> torch.Tensor:
        """The same without the label, which is not read."""
        return to_training_view(open_image(self.image_bytes(i), self.describe(i, ".jpg")), resolution, resize, crop)

    def images(self, ids: Iterable[int]) -> list[bytes]:
        """The JPEGs of some samples, read at the same time where that helps."""
        return self._each(self.image_bytes, ids)

    def views(
        self, ids: Iterable[int], resolution: int, resize: Resize, crop: Crop = "centre"
    ) -> list[tuple[torch.Tensor, torch.Tensor | None]]:
        """The views of some samples, read at the same time where that helps."""
        return self._each(partial(self.view, resolution=resolution, resize=resize, crop=crop), ids)

    def _each(self, read: Callable[[A], B], of: Iterable[A]) -> list[B]:
        return list(map(read, of) if self.shard_set.storage.parallel == 1 else self._pool().map(read, of))

    def _load_index(self, shard: Shard) -> dict[str, NDArray[np.int64]]:
        path = self.shard_set.index(shard)
        try:
            with np.load(io.BytesIO(self.shard_set.storage.read(shard.index))) as index:
                arrays = {name: index[name].astype(dtype, copy=False) for name, dtype in INDEX_ARRAYS.items()}
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise UserError(f"shard index {path}: {error}. {self._advice}") from None
        if any(len(array) != shard.samples for array in arrays.values()):
            raise UserError(f"shard index {path} does not hold {shard.samples} samples. {self._advice}")
        return arrays

    def _locate(self, i: int) -> tuple[int, int]:
        """Number of the shard that holds sample `i`, and the shard's first sample."""
        if not 0 <= i < len(self):
            raise IndexError(f"sample {i} of {len(self)}")
        shard = int(np.searchsorted(self.shard_starts, i, side="right")) - 1
        return shard, int(self.shard_starts[shard])

    def _read(self, i: int, suffix: str) -> bytes:
        shard, _ = self._locate(i)
        offset, size = map(int, self._spans[suffix][i])
        try:
            data = self.shard_set.storage.read_range(self.split.shards[shard].tar, offset, size)
        except OSError as error:
            raise UserError(f"{self.describe(i, suffix)}: {error}. {self._advice}") from None
        if len(data) < size:
            what = self.describe(i, suffix)
            raise UserError(f"{what}: the file ends after {len(data)} of {size} bytes. {self._advice}")
        return data

    def describe(self, i: int, suffix: str) -> str:
        """How errors name sample `i`: its tar, and the member of the suffix (".jpg", ".label.png")."""
        shard, _ = self._locate(i)
        return f"{self.shard_set.tar(self.split.shards[shard])}: sample {self.key(i)}{suffix}"

    @property
    def _advice(self) -> str:
        return f"Find every damaged file with: stego-dist shards verify {self.shard_set.root}"


def decode_label(data: bytes, name: str) -> NDArray[np.uint8]:
    """The class ids of a packed label, uint8 (H, W), 255 ignored. Raises UserError with `name`: damaged."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            ids = np.array(image)
            mode = image.mode
    except Exception as error:  # on damaged files Pillow's readers raise nearly anything
        raise UserError(f"{name}: not a readable label: {error}") from None
    if mode != "L":
        raise UserError(f"{name}: a packed label has 8-bit ids, this one is {mode}")
    return ids
