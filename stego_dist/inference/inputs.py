"""What a person names as images: files, folders, globs, tars, shard sets, addresses, and a list of these on stdin.

In: words of a command line. Out: `Listing`: each image once, under the name that its outputs will have, and what could
not be found with its reason, so that the rest can go on.
"""

from __future__ import annotations

import glob
import json
import os
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from stego_dist.config import StorageConfig
from stego_dist.data.manifest import FORMAT
from stego_dist.data.sources import IMAGE_SUFFIXES
from stego_dist.data.storage.fetch import SCHEMES, public
from stego_dist.errors import UserError
from stego_dist.inference.outnames import Called, output_names
from stego_dist.inference.sources import FileSource, ImageSource, MemberSource, SampleSource, UrlSource, samples_of

STDIN = "-"


@dataclass(frozen=True)
class Input:
    """An image, and the name of what is written about it."""

    name: str
    source: ImageSource


@dataclass(frozen=True)
class Failure:
    """An image, or a word, that nothing was made of."""

    where: str
    reason: str

    @classmethod
    def of(cls, where: str, error: UserError) -> Failure:
        """Of an error, whose text often begins with the place."""
        return cls(printable(where), printable(str(error)))


@dataclass
class Listing:
    """Images to predict, and words that name none."""

    inputs: list[Input] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)


def list_inputs(
    words: Sequence[str], *, split: str, storage: StorageConfig, stdin: Iterable[str] = (), out: Path | None = None
) -> Listing:
    """The images that the words name, in their order, folders sorted; one named twice is taken once.

    split: of shard sets. stdin: lines that "-" stands for. out: a folder that is not looked into.
    """
    found: dict[str, tuple[ImageSource, Called]] = {}
    listing = Listing()
    finder = _Finder(split, storage, None if out is None else out.resolve())
    for word in _words(words, stdin):
        try:
            for source, path, folder in finder.find(word):
                found.setdefault(source.identity, (source, Called(path, folder, source.identity)))
        except UserError as error:
            listing.failures.append(Failure.of(public(word) if _is_url(word) else word, error))
    names = output_names([called for _, called in found.values()])
    listing.inputs = [Input(name, source) for name, (source, _) in zip(names, found.values())]
    return listing


def printable(text: str) -> str:
    """Text without control characters and undecodable bytes, for terminals and JSON."""
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)


def _words(words: Sequence[str], stdin: Iterable[str]) -> Iterator[str]:
    for word in words:
        if word == STDIN:
            yield from (line for text in stdin if (line := text.rstrip("\r\n")))
        else:
            yield word


def _is_url(word: str) -> bool:
    return word.partition("://")[0].lower() in SCHEMES and "://" in word


Found = tuple[ImageSource, str, str]
"""A source, its path relative to what was named, and the name of that."""


@dataclass(frozen=True)
class _Finder:
    split: str
    storage: StorageConfig
    out: Path | None

    def find(self, word: str) -> Iterator[Found]:
        """The images of one word. Raises UserError: there are none, or they can't be listed."""
        if _is_url(word):
            yield from self._at_url(word)
            return
        path = Path(word)
        try:
            is_dir, exists = path.is_dir(), os.path.lexists(path)
        except ValueError as error:  # a NUL
            raise UserError(f"{word}: {error}") from None
        if is_dir:
            yield from self._in_folder(path)
        elif path.suffix.lower() == ".tar" and exists:
            yield from _in_tar(path)
        elif exists or not glob.has_magic(word):
            yield FileSource(path.absolute(), printable(word)), path.name, ""
        else:
            yield from self._by_glob(word)

    def _at_url(self, url: str) -> Iterator[Found]:
        path = unquote(urlsplit(url).path)
        if path.endswith(("/", "/manifest.json")):
            yield from self._in_shards(url.removesuffix("manifest.json").rstrip("/"))
        else:
            yield UrlSource(url, self.storage), PurePosixPath(path).name, urlsplit(url).hostname or ""

    def _in_folder(self, folder: Path) -> Iterator[Found]:
        if _is_shard_set(folder):
            yield from self._in_shards(str(folder))
            return
        count = 0
        for path in self._images(folder):
            count += 1
            relative = path.relative_to(folder).as_posix()
            yield FileSource(path.absolute(), printable(str(path))), relative, folder.absolute().name
        if not count:
            raise UserError(f"{folder}: no images in this folder (looked for {', '.join(sorted(IMAGE_SUFFIXES))})")

    def _images(self, folder: Path) -> Iterator[Path]:
        """Image files below a folder, sorted; nothing hidden, nothing of the output, no folder twice."""
        seen = set()
        for parent, folders, names in os.walk(folder, onerror=_refused, followlinks=True):
            here = Path(parent).resolve()
            if here in seen or here == self.out:
                folders.clear()
                continue
            seen.add(here)
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            for name in sorted(names):
                if not name.startswith(".") and Path(name).suffix.lower() in IMAGE_SUFFIXES:
                    yield Path(parent, name)

    def _by_glob(self, pattern: str) -> Iterator[Found]:
        paths = sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207 Path.glob takes no absolute patterns
        if not paths:
            raise UserError(f"{pattern}: no such file, and no file matches it")
        fixed = Path(*_before_magic(Path(pattern).parts))
        for path in map(Path, paths):
            relative = path.relative_to(fixed)
            if path.is_dir():
                if "**" not in pattern:
                    for source, inner, folder in self._in_folder(path):
                        yield source, f"{relative.as_posix()}/{inner}", folder
            elif path.suffix.lower() in IMAGE_SUFFIXES or not Path(pattern).name.endswith("*"):
                yield FileSource(path.absolute(), printable(str(path))), relative.as_posix(), fixed.absolute().name

    def _in_shards(self, root: str) -> Iterator[Found]:
        try:
            samples = samples_of(root, self.split, self.storage)
        except FileNotFoundError as error:
            raise UserError(f"{root}: {error}") from None
        name, fingerprint = Path(urlsplit(root).path).name, samples.split.fingerprint
        for i in range(len(samples)):
            crop = int(samples.crop[i])
            key = samples.name(i) + (f"_crop{crop}" if crop else "")
            yield SampleSource(root, self.split, i, printable(key), fingerprint, self.storage), f"{key}.jpg", name


def _is_shard_set(folder: Path) -> bool:
    try:
        value = json.loads((folder / "manifest.json").read_text("utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(value, dict) and value.get("format") == FORMAT


def _in_tar(path: Path) -> Iterator[Found]:
    """The image files of a tar that is not compressed."""
    try:
        with tarfile.open(path, "r:") as tar:
            members = [m for m in tar if m.isreg() and PurePosixPath(m.name).suffix.lower() in IMAGE_SUFFIXES]
    except (OSError, tarfile.TarError) as error:
        raise UserError(f"{path}: not a readable tar (compressed ones are not read): {error}") from None
    members = [m for m in members if not m.name.endswith(".label.png")]
    if not members:
        raise UserError(f"{path}: no images in this tar")
    for m in members:
        yield MemberSource(path.absolute(), printable(m.name), m.offset_data, m.size), m.name, path.stem


def _before_magic(parts: Sequence[str]) -> Iterator[str]:
    for part in parts[:-1]:
        if glob.has_magic(part):
            return
        yield part


def _refused(error: OSError) -> None:
    raise UserError(f"{error.filename}: cannot be read: {error.strerror}")
