"""Where an image to be predicted lies: a file, a member of a tar, a sample of a shard set, the web.

All can be pickled, and know how people call them (`where`), what tells them from others (`identity`), what changes when
their content does (`stamp`), and their bytes (`read`). What can't be had is a UserError.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

from stego_dist.config import StorageConfig
from stego_dist.data.manifest import ShardSet
from stego_dist.data.samples import ShardSamples
from stego_dist.data.sources import read_file
from stego_dist.data.storage.fetch import fetch, public
from stego_dist.errors import UserError

MAX_BYTES = 2**31
"""Of a file that is read whole."""
MAX_FETCHED = 2**29
"""Of a file of the web."""


class ImageSource(Protocol):
    """An image that can be read."""

    @property
    def where(self) -> str:
        """How messages and predictions.json call it."""

    @property
    def identity(self) -> str:
        """What tells it from all others."""

    def stamp(self) -> dict[str, Any]:
        """What changes when its content does. Raises UserError."""

    def read(self) -> bytes:
        """Its bytes. Raises UserError."""


@dataclass(frozen=True)
class FileSource:
    """A file, by its absolute path."""

    path: Path
    where: str

    @property
    def identity(self) -> str:
        """The path."""
        return str(self.path)

    def stamp(self) -> dict[str, Any]:
        """Size and time of the last change."""
        found = self._stat()
        return {"bytes": found.st_size, "mtime_ns": found.st_mtime_ns}

    def read(self) -> bytes:
        """Whole."""
        if self._stat().st_size > MAX_BYTES:
            raise UserError(f"{self.where}: more than the limit of {MAX_BYTES} bytes for a file that is read whole")
        return read_file(self.path)

    def _stat(self) -> os.stat_result:
        try:
            found = self.path.stat()
        except (OSError, ValueError) as error:
            raise UserError(f"{self.where}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
        if not stat.S_ISREG(found.st_mode):
            raise UserError(f"{self.where}: not a regular file")
        return found


@dataclass(frozen=True)
class MemberSource:
    """A file in a tar."""

    tar: Path
    member: str
    offset: int
    size: int

    @property
    def where(self) -> str:
        """Tar and member."""
        return f"{self.tar}: {self.member}"

    @property
    def identity(self) -> str:
        """The tar and the place in it."""
        return f"{self.tar}:{self.offset}"

    def stamp(self) -> dict[str, Any]:
        """That of the tar."""
        return {**FileSource(self.tar, str(self.tar)).stamp(), "offset": self.offset, "size": self.size}

    def read(self) -> bytes:
        """Its part of the tar."""
        try:
            with self.tar.open("rb") as file:
                data = os.pread(file.fileno(), self.size, self.offset)
        except OSError as error:
            raise UserError(f"{self.where}: cannot be read: {error.strerror}") from None
        if len(data) < self.size:
            raise UserError(f"{self.where}: the tar ends after {len(data)} of {self.size} bytes")
        return data


@dataclass(frozen=True)
class SampleSource:
    """A sample of a shard set."""

    root: str
    split: str
    number: int
    key: str
    shard: str
    """Fingerprint of the samples' split."""
    settings: StorageConfig

    @property
    def where(self) -> str:
        """Shard set, split and the sample's name."""
        return f"{self.root}: {self.split}/{self.key}"

    @property
    def identity(self) -> str:
        """Shard set, split and number."""
        return f"{self.root}:{self.split}:{self.number}"

    def stamp(self) -> dict[str, Any]:
        """The checksums of the split."""
        return {"split": self.shard, "sample": self.number}

    def read(self) -> bytes:
        """The sample's JPEG."""
        return samples_of(self.root, self.split, self.settings).image_bytes(self.number)


@lru_cache(maxsize=4)
def samples_of(root: str, split: str, settings: StorageConfig) -> ShardSamples:
    """A split, whose indices are read once a process."""
    return ShardSamples(ShardSet.open(root, settings), split)


@dataclass(frozen=True)
class UrlSource:
    """A file of the web or of an object store. Nothing tells when its content changes."""

    url: str
    settings: StorageConfig

    @property
    def where(self) -> str:
        """The address without query."""
        return public(self.url)

    @property
    def identity(self) -> str:
        """The whole address."""
        return self.url

    def stamp(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def read(self) -> bytes:
        """Fetched, with retries."""
        return fetch(self.url, self.settings, MAX_FETCHED)
