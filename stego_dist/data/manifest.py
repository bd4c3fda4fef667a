"""The written shard set: what `manifest.json` says, and where its files lie. shards/README.md has the format.

In: a folder or URL that `stego-dist shards build` wrote. Out: `ShardSet`, from which training and evaluation know
all they need: classes, palette, splits, shards with their checksums, counts.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from stego_dist.config import StorageConfig
from stego_dist.data.card import Card, error_lines
from stego_dist.data.storage import Storage, open_storage, with_cache
from stego_dist.errors import UserError
from stego_dist.rundir import digest

FORMAT = "stego_dist.shards/1"


class Shard(BaseModel):
    """A tar of samples and the index beside it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[A-Za-z0-9_]+-\d{5,}$")
    """`{split}-{number}`; its files are `{name}.tar` and `{name}.index.npz`."""
    samples: int = Field(ge=0)
    bytes: int = Field(ge=0)
    """Size of the tar."""
    sha256: str
    index_sha256: str

    @property
    def tar(self) -> str:
        """Name of the file of its samples."""
        return f"{self.name}.tar"

    @property
    def index(self) -> str:
        """Name of the file of its offsets."""
        return f"{self.name}.index.npz"


class Split(BaseModel):
    """A split: its shards in order, and what they add up to."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    labelled: bool
    num_images: int
    """Source images that were packed; each gave one sample a crop."""
    rejected: int
    """Source images that could not be read and were skipped; `rejected.jsonl` lists them."""
    class_pixels: list[int]
    """Labelled pixels of every class; all 0 without labels."""
    ignored_pixels: int
    shards: list[Shard]

    @property
    def num_samples(self) -> int:
        """Samples in all shards."""
        return sum(shard.samples for shard in self.shards)

    @property
    def bytes(self) -> int:
        """Size of all tars."""
        return sum(shard.bytes for shard in self.shards)

    @property
    def fingerprint(self) -> str:
        """Hex SHA-256 over the names and checksums of the shards: the same exactly when the samples are."""
        return digest([[shard.name, shard.sha256] for shard in self.shards])


class Manifest(BaseModel):
    """The content of `manifest.json`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: str = FORMAT
    tool: str
    """Name and version of what wrote it."""
    card: Card
    """The dataset card, its classes filled in when they are known."""
    options: dict[str, Any]
    """How it was built: `pack.BuildOptions`."""
    splits: list[Split]
    checksum: str = ""
    """`content_digest` of the rest, so that `verify` notices edits."""

    def content_digest(self) -> str:
        """Hex SHA-256 of every field but the checksum."""
        return digest(self.model_dump(mode="json", exclude={"checksum"}))


def _staged(place: str | Path | Storage) -> str | Path | Storage:
    """Where this machine has a copy of a set of its own: what the launchers say by STEGO_STAGED=PLACE=COPY."""
    original, _, copy = os.environ.get("STEGO_STAGED", "").partition("=")
    there = original == str(place) and (Path(copy) / "manifest.json").exists()
    return Path(copy) if there else place


@dataclass(frozen=True)
class ShardSet:
    """A shard set: where its files lie, and its manifest."""

    storage: Storage
    manifest: Manifest

    @classmethod
    def open(cls, place: str | Path | Storage, settings: StorageConfig | None = None) -> ShardSet:
        """Read and validate a shard set's manifest; the shards themselves are not touched.

        `settings`: how a URL is read (data.storage). Raises UserError when there is none, or it is damaged or of
        another format.
        """
        storage = open_storage(_staged(place), settings)
        remedy = f"Write it with: stego-dist shards build CARD --source DIR --out {storage.root}"
        value, where = storage.read_json("manifest.json", "shard set", remedy), storage.where("manifest.json")
        found = value.get("format") if isinstance(value, dict) else None
        if found != FORMAT:
            raise UserError(f"{where} has format {found!r}; this version reads {FORMAT!r}. {remedy}")
        try:
            manifest = Manifest.model_validate(value)
        except ValidationError as error:
            raise UserError(f"{where} is damaged:\n{error_lines(error)}\n{remedy}") from None
        files: dict[str, tuple[str, int | None]] = {}
        for shard in (shard for split in manifest.splits for shard in split.shards):
            files |= {shard.tar: (shard.sha256, shard.bytes), shard.index: (shard.index_sha256, None)}
        return cls(with_cache(storage, settings, files), manifest)

    @property
    def root(self) -> Path | str:
        """The folder or URL."""
        return self.storage.root

    @property
    def classes(self) -> list[str]:
        """Names of the classes in the order of their ids; empty when none are known."""
        return [c.name for c in self.manifest.card.classes or []]

    @property
    def palette(self) -> list[tuple[int, int, int]]:
        """Colours (red, green, blue) of the classes in the order of their ids; empty when none are known."""
        return [c.colour for c in self.manifest.card.classes or []]

    @property
    def described_classes(self) -> list[dict[str, Any]]:
        """Names and colours of the classes, for files."""
        return [c.model_dump(mode="json") for c in self.manifest.card.classes or []]

    @property
    def num_classes(self) -> int | None:
        """Number of classes; None when none are known."""
        return self.manifest.card.num_classes

    @property
    def splits(self) -> list[str]:
        """Names of the splits."""
        return [split.name for split in self.manifest.splits]

    def split(self, name: str) -> Split:
        """A split by name. Raises UserError naming those there are."""
        for split in self.manifest.splits:
            if split.name == name:
                return split
        raise UserError(f"shard set {self.root} has no split {name!r}; it has {', '.join(self.splits)}")

    def tar(self, shard: Shard) -> Path | str:
        """Path or URL of a shard's samples, as errors name it."""
        return self.storage.where(shard.tar)

    def index(self, shard: Shard) -> Path | str:
        """Path or URL of a shard's offsets, as errors name it."""
        return self.storage.where(shard.index)
