"""Names of what is written about each image: below the output folder, one each, whatever the images are called.

In: the path of each image as its folder, glob, tar or URL has it. Out: relative paths without suffix, made of harmless
characters; no part is "..", hidden, or longer than file systems take.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

HARMLESS = frozenset("._-+=@,()")
"""Characters that names keep beside letters and digits."""
LONGEST = 120
"""Bytes of a part; file systems take 255, of which the names of temporary files take some."""
DEEPEST = 16
"""Folders of a name."""
SUFFIXES = (".png", ".jpg", ".webp", ".tif", ".npz", ".json")
"""Of what is written: no folder may end in one, or it could be in the way of a file."""


@dataclass(frozen=True)
class Called:
    """What an image is called."""

    path: str
    """Relative to what was given, with forward slashes."""
    folder: str
    """The name of what was given: a folder, a tar, a server; "" for single files."""
    identity: str
    """What tells it from all others."""


def output_names(images: Sequence[Called]) -> list[str]:
    """A name for each: its path without suffix; where that is another's too, with the suffix, then with the folder,
    then with a digest. The order of the images does not matter. Names that differ by case alone count as the same.
    """
    names: list[str | None] = [None] * len(images)
    taken: set[str] = set()
    left = list(range(len(images)))
    for stage in (_plain, _with_suffix, _with_folder, _with_digest):
        wanted = {i: stage(images[i]) for i in left}
        counts = Counter(name.casefold() for name in wanted.values())
        free = {i: name for i, name in wanted.items() if counts[name.casefold()] == 1 and name.casefold() not in taken}
        for i, name in free.items():
            names[i] = name
        taken |= {name.casefold() for name in free.values()}
        left = [i for i in left if names[i] is None]
    assert not left, "two images of one identity"
    return [name for name in names if name is not None]


def safe(path: str) -> str:
    """A relative path of harmless parts; "image" where nothing is left of it."""
    parts = [_safe_part(part) for part in unicodedata.normalize("NFC", path).replace("\\", "/").split("/")]
    parts = [part for part in parts if part]
    if len(parts) > DEEPEST:
        parts = [_digest(path), *parts[1 - DEEPEST :]]
    folders = [_no_suffix(part) for part in parts[:-1]]
    return "/".join([*folders, *parts[-1:]]) or "image"


def _safe_part(part: str) -> str:
    """A part of a path; "" where it means no name."""
    if part in ("", ".", ".."):
        return ""
    kept = "".join(c if c.isalnum() or c in HARMLESS else "_" for c in part)
    kept = "_" * (len(kept) - len(kept.lstrip("."))) + kept.lstrip(".")  # no hidden files
    if len(kept.encode()) > LONGEST:
        cut = kept.encode()[: LONGEST - 9].decode("utf-8", "ignore")
        kept = f"{cut}-{_digest(part)}"
    return kept


def _no_suffix(folder: str) -> str:
    stem, dot, suffix = folder.rpartition(".")
    return f"{stem}_{suffix}" if f"{dot}{suffix}".lower() in SUFFIXES else folder


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:8]


def _without_suffix(path: str) -> tuple[str, str]:
    """Path and suffix, of which there is none where the name would be empty without."""
    folder, slash, name = path.replace("\\", "/").rpartition("/")
    stem, _, suffix = name.rpartition(".")
    return (f"{folder}{slash}{stem}", suffix) if stem.strip(".") else (path, "")


def _plain(image: Called) -> str:
    return safe(_without_suffix(image.path)[0])


def _with_suffix(image: Called) -> str:
    stem, suffix = _without_suffix(image.path)
    return safe(f"{stem}_{suffix}" if suffix else stem)


def _with_folder(image: Called) -> str:
    return safe(f"{image.folder}/{_without_suffix(image.path)[0]}")


def _with_digest(image: Called) -> str:
    return safe(f"{_without_suffix(image.path)[0]}-{_digest(image.identity)}")
