"""The raw data set on disk: which images there are, which label belongs to which, and how images are decoded.

In: a card and the folder that holds a copy of its data set. Out: `Source` pairs, PIL images.

1. `find_pairs` lists a split and pairs images with labels by relative name, never by sort order;
2. where a split has a list, only its images stay (lists.py); where images are cut, each tile is a source (tiles.py);
3. `open_image` turns any image file into upright RGB. Other encodings, and labels: encodings.py.

What cannot be read is a UserError that names the file and the cause.
"""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from stego_dist.data.card import Card
from stego_dist.data.lists import listed_keys, select
from stego_dist.data.tiles import Tile
from stego_dist.errors import UserError

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"})
LABEL_SUFFIXES = frozenset({".png", ".bmp", ".tif", ".tiff"})
"""Formats without loss: a JPEG would blur ids."""
ARRAY_SUFFIXES = frozenset({".mat"})
MAX_PIXELS = 2**28
# Pillow has its own, lower limit; the one above is checked in _decode before any pixel is.
Image.MAX_IMAGE_PIXELS = MAX_PIXELS

OnError = Literal["fail", "skip"]


@dataclass(frozen=True)
class Source:
    """An image of the raw data set, or a tile of one, and its label map if it has one."""

    image: Path
    label: Path | None
    key: str
    """Path relative to the split's folder, without suffix and what else the card's `image_name` adds, with
    forward slashes; of a tile with its row and column behind it."""
    tile: Tile | None = None
    """The part of both files that this is; None: the whole."""

    @property
    def share(self) -> float:
        """Part of the files' pixels."""
        return self.tile.share if self.tile else 1.0


def find_pairs(
    card: Card, root: Path, split: str, on_error: OnError = "fail", lists: Path | None = None
) -> list[Source]:
    """The images of a split sorted by key, with their labels; without any when the label folder is absent.

    The tiles of an image follow each other, row by row. `lists` is the folder of the lists of images, where they
    are not in `root`. With `on_error="skip"` an image whose label is missing is returned without one, for the
    packer to reject.
    Raises UserError: no such split, folder or list, no images, two files of one name, images without label.
    """
    try:
        return _find_pairs(card, root, split, on_error, lists)
    except OSError as error:
        raise UserError(f"split {split}: {error.filename} cannot be read: {error.strerror}") from None


def _find_pairs(card: Card, root: Path, split: str, on_error: OnError, lists: Path | None) -> list[Source]:
    if split not in card.splits:
        raise UserError(f"card {card.name} has no split {split!r}; it has {', '.join(card.splits)}")
    folder = _fill(card.images, card, root, split)
    if not folder.is_dir():
        raise UserError(
            f"split {split}: image folder {folder} does not exist. Card {card.name} looks for images in "
            f"{card.images!r} below --source {root}; choose the splits that are there with --splits."
        )
    suffixes = ARRAY_SUFFIXES if card.image_array else IMAGE_SUFFIXES
    images = _by_key(folder, card.image_name, suffixes)
    if not images:
        raise UserError(f"split {split}: no images in {folder} (looked for {_looked_for(card.image_name, suffixes)})")
    keys = listed_keys(card, split, root, lists)
    may_miss = on_error == "skip" or isinstance(card.lists.get(split), list)  # the card's own keys: a part will do
    images = select(images, keys, f"split {split} in {folder}", may_miss=may_miss)
    labels = _labels(card, root, split, images, on_error)
    pairs = [Source(path, labels.get(key), key) for key, path in sorted(images.items())]
    return [tile for pair in pairs for tile in _tiles(pair, card, on_error)] if card.tile else pairs


def _labels(card: Card, root: Path, split: str, images: dict[str, Path], on_error: OnError) -> dict[str, Path]:
    folder = _fill(card.labels, card, root, split) if card.labels else None
    if folder is None or not folder.is_dir():
        return {}
    suffixes = ARRAY_SUFFIXES if card.label_array else LABEL_SUFFIXES
    labels = _by_key(folder, card.label_name, suffixes)
    missing = [images[key] for key in sorted(images) if key not in labels]
    if missing and not card.labels_partial and (on_error == "fail" or len(missing) == len(images)):
        shown = "".join(f"\n  {path}" for path in missing[:5]) + ("\n  …" if len(missing) > 5 else "")
        raise UserError(
            f"split {split}: {len(missing)} of {len(images)} images have no label in {folder} "
            f"(same subfolder, {_looked_for(card.label_name, suffixes)}):{shown}"
        )
    return labels


def _looked_for(name: str, suffixes: frozenset[str]) -> str:
    return f"{name} with {', '.join(sorted(suffixes))}"


def _tiles(pair: Source, card: Card, on_error: OnError) -> list[Source]:
    """A source for every tile of an image, of which only the header is read."""
    assert card.tile is not None
    try:
        with Image.open(pair.image) as image:
            turned = image.getexif().get(ExifTags.Base.Orientation, 1) >= 5
            width, height = image.size[::-1] if turned else image.size
    except Exception as error:  # on damaged files Pillow's readers raise nearly anything
        if on_error == "skip":
            return [pair]  # for the packer to reject
        raise UserError(f"{pair.image}: not a readable image: {error}") from None
    tiles = card.tile.tiles(width, height)
    return [Source(pair.image, pair.label, f"{pair.key}_{tile.row}_{tile.column}", tile) for tile in tiles]


def _fill(pattern: str, card: Card, root: Path, split: str) -> Path:
    return root / pattern.replace("{split}", card.splits[split])


def _by_key(folder: Path, pattern: str, suffixes: frozenset[str]) -> dict[str, Path]:
    """Subfolder and `{key}` of the pattern → file.

    Hidden files and folders, and other names, are not looked at; links to folders are followed.
    """
    before, after = pattern.split("{key}")
    found: dict[str, Path] = {}
    for parent, folders, names in os.walk(folder, onerror=_raise, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for link in (path for name in folders if (path := Path(parent, name)).is_symlink()):
            target, above = link.resolve(), (part for part in link.parents if part.is_relative_to(folder))
            if any(part.resolve().is_relative_to(target) for part in above):
                raise UserError(f"{link} links to a folder that it lies in, {target}; remove the link")
        for name in sorted(names):
            path = Path(parent, name)
            if name.startswith(".") or path.suffix.lower() not in suffixes:
                continue
            if not (path.stem.startswith(before) and path.stem.endswith(after)):
                continue
            inner = path.stem[len(before) : len(path.stem) - len(after)]
            if not inner:
                continue
            key = path.relative_to(folder).with_name(inner).as_posix()
            if not _is_unicode(key):
                raise UserError(f"the file name {str(path)!r} is not valid UTF-8; rename it")
            if key in found:
                raise UserError(f"two files are called {key!r}: {found[key]} and {path}; rename or remove one")
            found[key] = path
    return found


def _raise(error: OSError) -> None:
    raise error


def _is_unicode(text: str) -> bool:
    """False for the lone surrogates by which Python shows undecodable bytes in file names."""
    return not any("\ud800" <= char <= "\udfff" for char in text)


def read_file(path: Path) -> bytes:
    """A file's bytes. Raises UserError naming it when it cannot be read or is empty."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    if not data:
        raise UserError(f"{path}: the file is empty (0 bytes)")
    return data


def open_image(source: bytes | Path, name: str = "", channels: int = 3) -> Image.Image:
    """Decode an image completely, as 8-bit RGB, turned upright by its EXIF orientation.

    Grey, palette and CMYK images are converted, 16-bit ones keep their upper 8 bits, and alpha is simply
    dropped: the colours under transparent pixels show. Of several frames the first counts. With 4 `channels`
    the last is not alpha, whatever the file says, so that it changes no colours.
    Raises UserError with `name` (default: the path) when the file is missing, empty, damaged, of another
    format, of floating point, or larger than MAX_PIXELS.
    """
    name = name or str(source if isinstance(source, Path) else "image")
    data = read_file(source) if isinstance(source, Path) else source
    image = decode(data, name, channels)
    if image.mode == "F":
        raise UserError(f"{name}: a floating-point image; convert it to 8 or 16 bits")
    try:
        ImageOps.exif_transpose(image, in_place=True)  # without the copy that it makes of upright images
        if image.mode.startswith("I"):
            image = Image.fromarray((np.asarray(image).clip(0, 65535) >> 8).astype(np.uint8))
        elif image.mode == "P":
            image = image.convert("RGBA")  # where Pillow resolves a palette's transparency without a warning
        return image if image.mode == "RGB" else image.convert("RGB")
    except Exception as error:  # damaged EXIF, a colour space that has no way to RGB
        raise UserError(f"{name}: cannot be turned into upright RGB: {error}") from None


def is_plain_jpeg(data: bytes) -> bool:
    """True for an RGB JPEG that is stored upright, so that its bytes may be passed on unchanged."""
    with Image.open(io.BytesIO(data)) as image:
        upright = image.getexif().get(ExifTags.Base.Orientation, 1) == 1
        return image.format == "JPEG" and image.mode == "RGB" and upright


def decode(data: bytes, name: str, channels: int = 3) -> Image.Image:
    """Decode an image file completely, in the mode it has. Raises UserError with `name`: unreadable or too large."""
    try:
        image = Image.open(io.BytesIO(data))
        if channels == 4:  # colours are not divided by what a TIFF takes for premultiplied alpha
            image.tile = [part._replace(args=_plain(part.args)) for part in image.tile]
        if image.width * image.height <= MAX_PIXELS:
            image.load()
            return image
    except Exception as error:  # on damaged files Pillow's readers raise nearly anything
        cause = "no known image format" if isinstance(error, UnidentifiedImageError) else error
        raise UserError(f"{name}: not a readable image: {cause}") from None
    raise UserError(f"{name}: {image.width}×{image.height} pixels are more than the limit of {MAX_PIXELS}")


def _plain(args: Any) -> Any:
    """A Pillow decoder's arguments, which begin with the order of the channels, without premultiplied alpha."""
    return ("RGBA", *args[1:]) if isinstance(args, tuple) and args[:1] == ("RGBa",) else args
