"""Which images of a folder belong to a split, where a card says so by a list.

In: a card, a split, the data set's folder, and the folder of `--lists` if one was given. Out: keys, or None
where every image counts.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import TypeVar

from stego_dist import console
from stego_dist.data.card import Card
from stego_dist.errors import ConfigError, UserError

T = TypeVar("T")


def listed_keys(card: Card, split: str, root: Path, folder: Path | None = None) -> set[str] | None:
    """The keys that a split's list names; None when the card has no list for it, or there is none to be found.

    A list file is looked for in `folder` if there is one (with and without the first folder of its path), else in
    `root`. One that is nowhere is a warning, for then all images are taken. Raises UserError where that would
    give all splits the same images, or `folder` was asked for in vain; ConfigError when the card has no lists.
    """
    entry = card.lists.get(split)
    if folder is not None and not any(isinstance(value, str) for value in card.lists.values()):
        raise ConfigError(f"card {card.name} reads no lists of images, so --lists {folder} would have no effect")
    if not isinstance(entry, str):
        return None if entry is None else set(entry)
    shorter = Path(*PurePosixPath(entry).parts[1:])
    places = [root / entry] if folder is None else [folder / entry, folder / shorter]
    for path in places:
        if path.is_file():
            return _read(path)
    looked = " or ".join(map(str, places))
    if folder is not None or "{split}" not in card.images:
        raise UserError(f"split {split}: the list of its images is missing: {looked}. {card.where}".rstrip())
    console.warn(
        f"split {split}: {looked} is missing, so all images are taken; results cannot be compared with published "
        "ones. Put the list there, or name its folder with --lists DIR."
    )
    return None


def _read(path: Path) -> set[str]:
    """The keys in a file, one a line; blank lines are skipped."""
    try:
        keys = {line.strip() for line in path.read_text("utf-8-sig").splitlines()} - {""}
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the list of images {path}: {error}") from None
    if not keys:
        raise UserError(f"the list of images {path} is empty")
    return keys


def select(images: dict[str, T], keys: set[str] | None, what: str, *, may_miss: bool) -> dict[str, T]:
    """The images whose keys are listed (all when None); `what` names split and folder in messages.

    Raises UserError naming the first of those that are not there; with `may_miss` a warning, unless none is.
    """
    if keys is None:
        return images
    found = {key: path for key, path in images.items() if key in keys}
    if absent := sorted(keys - found.keys()):
        shown = ", ".join(absent[:5]) + (", …" if len(absent) > 5 else "")
        message = f"{what}: {len(absent)} of {len(keys)} listed images are not there: {shown}"
        if not (found and may_miss):
            raise UserError(message)
        console.warn(message)
    return found
