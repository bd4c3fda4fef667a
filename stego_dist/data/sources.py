"""The raw data set on disk: which images there are, which label belongs to which, and how both are decoded.

In: a card and the folder that holds a copy of its data set. Out: `Source` pairs, PIL images, label arrays.

1. `find_pairs` lists a split and pairs images with labels by relative name, never by sort order;
2. `open_image` turns any image file into upright RGB;
3. `open_label` turns any id map into uint8 class ids, 255 where ignored.

What cannot be read is a UserError that names the file and the cause.
"""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from stego_dist.data.card import IGNORED, Card
from stego_dist.data.mapping import map_ids
from stego_dist.errors import UserError

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"})
LABEL_SUFFIXES = frozenset({".png", ".bmp", ".tif", ".tiff"})
"""Formats without loss: a JPEG would blur ids."""
MAX_PIXELS = 2**28
# Pillow has its own, lower limit; the one above is checked in _decode before any pixel is.
Image.MAX_IMAGE_PIXELS = MAX_PIXELS

OnError = Literal["fail", "skip"]
_RAW_IDS = 2**16


@dataclass(frozen=True)
class Source:
    """An image of the raw data set, and its label map if it has one."""

    image: Path
    label: Path | None
    key: str
    """Path relative to the split's folder, without suffix, with forward slashes."""


def find_pairs(card: Card, root: Path, split: str, on_error: OnError = "fail") -> list[Source]:
    """The images of a split sorted by key, with their labels; without any when the label folder is absent.

    With `on_error="skip"` an image whose label is missing is returned without one, for the packer to reject.
    Raises UserError: no such split or folder, no images, two files of one name, images without label.
    """
    try:
        return _find_pairs(card, root, split, on_error)
    except OSError as error:
        raise UserError(f"split {split}: {error.filename} cannot be read: {error.strerror}") from None


def _find_pairs(card: Card, root: Path, split: str, on_error: OnError) -> list[Source]:
    if split not in card.splits:
        raise UserError(f"card {card.name} has no split {split!r}; it has {', '.join(card.splits)}")
    folder = _fill(card.images, card, root, split)
    if not folder.is_dir():
        raise UserError(
            f"split {split}: image folder {folder} does not exist. Card {card.name} looks for images in "
            f"{card.images!r} below --source {root}; choose the splits that are there with --splits."
        )
    images = _by_key(folder, IMAGE_SUFFIXES)
    if not images:
        raise UserError(f"split {split}: no images in {folder} (looked for {', '.join(sorted(IMAGE_SUFFIXES))})")
    label_folder = _fill(card.labels, card, root, split) if card.labels else None
    if label_folder is None or not label_folder.is_dir():
        return [Source(path, None, key) for key, path in sorted(images.items())]
    labels = _by_key(label_folder, LABEL_SUFFIXES)
    missing = [images[key] for key in sorted(images) if key not in labels]
    if missing and (on_error == "fail" or len(missing) == len(images)):
        shown = "".join(f"\n  {path}" for path in missing[:5]) + ("\n  …" if len(missing) > 5 else "")
        raise UserError(
            f"split {split}: {len(missing)} of {len(images)} images have no label in {label_folder} "
            f"(same relative name, {', '.join(sorted(LABEL_SUFFIXES))}):{shown}"
        )
    return [Source(path, labels.get(key), key) for key, path in sorted(images.items())]


def _fill(pattern: str, card: Card, root: Path, split: str) -> Path:
    return root / pattern.replace("{split}", card.splits[split])


def _by_key(folder: Path, suffixes: frozenset[str]) -> dict[str, Path]:
    """Relative name without suffix → file; hidden ones are not looked at, links to folders are followed."""
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
            key = path.relative_to(folder).with_suffix("").as_posix()
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


def open_image(source: bytes | Path, name: str = "") -> Image.Image:
    """Decode an image completely, as 8-bit RGB, turned upright by its EXIF orientation.

    Grey, palette and CMYK images are converted, 16-bit ones keep their upper 8 bits, and alpha is simply
    dropped: the colours under transparent pixels show. Of several frames the first counts.
    Raises UserError with `name` (default: the path) when the file is missing, empty, damaged, of another
    format, of floating point, or larger than MAX_PIXELS.
    """
    name = name or str(source if isinstance(source, Path) else "image")
    data = read_file(source) if isinstance(source, Path) else source
    image = _decode(data, name)
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


def open_label(source: Path, card: Card, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Decode a label map of an upright image of `size` (width, height): uint8 (H, W) class ids, 255 ignored.

    Files hold ids, 8 or 16 bits deep; of a palette image the indices count. EXIF orientation is not applied.
    Raises UserError: unreadable, another size than the image, colours instead of ids, an id that the card
    neither maps nor ignores.
    """
    image = _decode(read_file(source), str(source))
    if image.mode not in ("1", "L", "P") and not image.mode.startswith("I"):
        raise UserError(f"{source}: a label map must hold one id a pixel (grey or palette), not {image.mode} colours")
    if image.size != size:
        raise UserError(f"{source}: the label map is {image.size[0]}×{image.size[1]}, its image {size[0]}×{size[1]}")
    raw = np.asarray(image)
    ids, wrong = map_ids(raw if raw.dtype == np.uint8 else raw.astype(np.int32), _lookup(card))
    if wrong:
        known = sorted(card.label_map) if card.label_map is not None else f"0 to {(card.num_classes or IGNORED) - 1}"
        raise UserError(
            f"{source}: ids {wrong[:10]}{' …' if len(wrong) > 10 else ''} are not in card {card.name}; "
            f"allowed: {known}; ignored: {sorted({*card.ignored, IGNORED})}"
        )
    return ids


def _lookup(card: Card) -> NDArray[np.int16]:
    """Raw id → class id, 255 where ignored, −1 where unknown; the last two are for ids out of range."""
    table = np.full(_RAW_IDS + 2, -1, np.int16)
    if card.label_map is None:
        table[: card.num_classes or IGNORED] = np.arange(card.num_classes or IGNORED)
    else:
        table[list(card.label_map)] = list(card.label_map.values())
    table[[*card.ignored, IGNORED]] = IGNORED
    return table


def _decode(data: bytes, name: str) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(data))
        if image.width * image.height <= MAX_PIXELS:
            image.load()
            return image
    except Exception as error:  # on damaged files Pillow's readers raise nearly anything
        cause = "no known image format" if isinstance(error, UnidentifiedImageError) else error
        raise UserError(f"{name}: not a readable image: {cause}") from None
    raise UserError(f"{name}: {image.width}×{image.height} pixels are more than the limit of {MAX_PIXELS}")
