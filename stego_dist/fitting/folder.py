"""What is in a folder of images, before anything is done with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from PIL import Image

from stego_dist.data.card import Card
from stego_dist.data.sources import find_pairs
from stego_dist.engine.per_image import evenly
from stego_dist.errors import UserError

TRAIN, SHOWN = "train", "shown"
"""Splits: what is trained on, and what the report shows."""
MEASURED = 64
"""Images whose headers are read."""


@dataclass(frozen=True)
class Folder:
    """Images below a folder."""

    root: Path
    keys: tuple[str, ...]
    """Relative paths without suffix, sorted."""
    bytes: int
    """Of all files, as far as MEASURED of them tell."""
    shorter: int
    """Median of the shorter side of those, in pixels."""
    longer: int
    """Median of the longer side."""

    @classmethod
    def look(cls, root: Path) -> Folder:
        """List the images, with their subfolders, and read some headers. Raises UserError: none, or none readable."""
        if not root.is_dir():
            raise UserError(f"{root} is no folder; give the folder that holds your images, at any depth")
        found = find_pairs(folder_card(root, [], None), root, TRAIN)
        some = [found[i].image for i in evenly(len(found), MEASURED)]
        sizes = []
        for path in some:
            try:
                with Image.open(path) as image:
                    sizes.append(image.size)
            except Exception:  # damaged: packing will name it
                continue
        if not sizes:
            raise UserError(f"none of {len(some)} images in {root} can be read, for instance {some[0]}")
        mean = sum(path.stat().st_size for path in some) / len(some)
        shorter, longer = (round(median(side(size) for size in sizes)) for side in (min, max))
        return cls(root, tuple(source.key for source in found), round(mean * len(found)), shorter, longer)

    def __len__(self) -> int:
        return len(self.keys)


def folder_card(root: Path, shown: Sequence[str], trained: Sequence[str] | None) -> Card:
    """The card of a folder of images without labels; keys of the images shown, and of those trained on (None: all)."""
    lists: dict[str, str | list[str]] = {SHOWN: list(shown)}
    if trained is not None:
        lists[TRAIN] = list(trained)
    return Card(
        name="images", title=f"images of {root.resolve().name}", images="{split}", splits={TRAIN: ".", SHOWN: "."},
        lists=lists if shown else {},
    )  # fmt: skip
