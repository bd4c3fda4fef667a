"""From the files of a raw data set to pixels and class ids, however the card says they are encoded.

In: a `Source` and its card. Out: an upright RGB image, uint8 class ids with 255 where ignored.

| | image | label map |
|---|---|---|
| image file | any; of four channels the first three | ids: grey or palette indices; or a colour for every id |
| .mat file | an array, uint8 (H, W, channels); the first three | an array of integers (H, W) |

What cannot be read is a UserError that names the file and the cause.
"""

from __future__ import annotations

import io
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from stego_dist.data.card import IGNORED, Card, Colour
from stego_dist.data.mapping import map_ids
from stego_dist.data.sources import Source, decode, is_plain_jpeg, open_image, read_file
from stego_dist.data.tiles import Tile
from stego_dist.errors import UserError

_RAW_IDS = 2**16


def read_source(
    source: Source, card: Card, labelled: bool, original: bool = True
) -> tuple[Image.Image, NDArray[np.uint8] | None, bytes | None]:
    """An image, its class ids where its split is labelled, and, if `original` is asked for, the file itself where it
    is an upright RGB JPEG.

    Raises UserError naming the file: either cannot be read, or the label map is missing.
    """
    name, kept = str(source.image), None
    if card.image_array:
        image = _array_image(read_array(source.image, card.image_array), source.image, card)
    elif source.tile:
        image = _cut(_whole_image(source.image, _state(source.image), card.channels), source.tile)
    else:
        data = read_file(source.image)
        image = open_image(data, name, card.channels)
        kept = data if original and is_plain_jpeg(data) else None
    if not labelled:
        return image, None, kept
    if source.label is not None:
        return image, open_label(source.label, card, image.size, source.tile), kept
    if not card.labels_partial:
        raise UserError(f"{name}: no label, where other images of its split have one")
    return image, np.full(image.size[::-1], IGNORED, np.uint8), kept


def open_label(source: Path, card: Card, size: tuple[int, int], tile: Tile | None = None) -> NDArray[np.uint8]:
    """Decode a label map, or a tile of it, for an upright image of `size` (width, height).

    Returns uint8 (H, W) class ids, 255 ignored. EXIF orientation is not applied.
    Raises UserError: unreadable, another size than the image, colours instead of ids or the reverse, an id or
    colour that the card does not know.
    """
    raw: NDArray[np.uint8] | NDArray[np.int32]
    if card.label_array:
        raw = _array_ids(read_array(source, card.label_array), source, card.label_array)
    else:
        image = _whole_label(source, _state(source)) if tile else decode(read_file(source), str(source))
        _check_size(source, image.size, tile.image_size if tile else size)
        raw = _image_ids(image.crop(tile.box) if tile else image, source, card)
    if tile:
        raw = raw[:: tile.shrink, :: tile.shrink]
    _check_size(source, raw.shape[::-1], size)
    ids, wrong = map_ids(raw, _lookup(card))
    if wrong:
        known = sorted(card.label_map) if card.label_map is not None else f"0 to {(card.num_classes or IGNORED) - 1}"
        raise UserError(
            f"{source}: ids {wrong[:10]}{' …' if len(wrong) > 10 else ''} are not in card {card.name}; "
            f"allowed: {known}; ignored: {sorted({*card.ignored, IGNORED})}"
        )
    return ids


def _check_size(source: Path, found: tuple[int, ...], wanted: tuple[int, int]) -> None:
    if found != wanted:
        raise UserError(f"{source}: the label map is {found[0]}×{found[1]}, its image {wanted[0]}×{wanted[1]}")


def _lookup(card: Card) -> NDArray[np.int16]:
    """Raw id → class id, 255 where ignored, −1 where unknown; the last two are for ids out of range."""
    table = np.full(_RAW_IDS + 2, -1, np.int16)
    if card.label_map is None:
        table[: card.num_classes or IGNORED] = np.arange(card.num_classes or IGNORED)
    else:
        table[list(card.label_map)] = list(card.label_map.values())
    table[[*card.ignored, IGNORED]] = IGNORED
    return table


# image files


def _image_ids(image: Image.Image, source: Path, card: Card) -> NDArray[np.uint8] | NDArray[np.int32]:
    """Raw ids (H, W) of a label map in an image file."""
    if card.label_colours is not None:
        return _colour_ids(image, source, card.label_colours)
    if image.mode not in ("1", "L", "P") and not image.mode.startswith("I"):
        raise UserError(f"{source}: a label map must hold one id a pixel (grey or palette), not {image.mode} colours")
    raw = np.asarray(image)
    return raw if raw.dtype == np.uint8 else raw.astype(np.int32)


def _colour_ids(image: Image.Image, source: Path, colours: dict[int, Colour]) -> NDArray[np.int32]:
    """Raw ids (H, W) of the colours, which must be met exactly. Raises UserError naming the most frequent others."""
    pixels = np.asarray(image.convert("RGB"), np.int32) @ np.array([65536, 256, 1], np.int32)
    codes = np.array([red << 16 | green << 8 | blue for red, green, blue in colours.values()], np.int32)
    order = np.argsort(codes)
    found = order[np.searchsorted(codes, pixels, sorter=order).clip(max=len(codes) - 1)]
    if (unknown := codes[found] != pixels).any():
        others, counts = np.unique(pixels[unknown], return_counts=True)
        most = np.argsort(-counts, kind="stable")[:5]
        shown = "; ".join(
            f"({code >> 16}, {code >> 8 & 255}, {code & 255}) in {count} pixels"
            for code, count in zip(others[most].tolist(), counts[most].tolist())
        )
        more = f"; and {len(others) - 5} more" if len(others) > 5 else ""
        raise UserError(f"{source}: colours that the card gives no id: {shown}{more}")
    ids: NDArray[np.int32] = np.array([*colours], np.int32)[found]
    return ids


def _cut(image: Image.Image, tile: Tile) -> Image.Image:
    part = image.crop(tile.box)
    return part.reduce(tile.shrink) if tile.shrink > 1 else part


def _state(path: Path) -> tuple[int, int]:
    """Size and time of a file, so that a changed one is read again; zeros for one that is not there."""
    try:
        stat = path.stat()
    except OSError:
        return 0, 0
    return stat.st_size, stat.st_mtime_ns


# A shard holds many tiles of one image in a row: the last image and the last label map stay decoded.
@lru_cache(maxsize=1)
def _whole_image(path: Path, state: tuple[int, int], channels: int) -> Image.Image:
    del state
    return open_image(path, channels=channels)


@lru_cache(maxsize=1)
def _whole_label(path: Path, state: tuple[int, int]) -> Image.Image:
    del state
    return decode(read_file(path), str(path))


# .mat files


def read_array(path: Path, name: str) -> NDArray[Any]:
    """An array of a .mat file of version 5 or older. Raises UserError naming the file, and the arrays it has."""
    from scipy.io import loadmat

    data = read_file(path)
    try:
        content = loadmat(io.BytesIO(data))
    except Exception as error:  # on damaged files the reader raises nearly anything
        raise UserError(f"{path}: not a readable .mat file of version 5: {error}") from None
    if name not in content:
        there = ", ".join(sorted(key for key in content if not key.startswith("__"))) or "none"
        raise UserError(f"{path}: has no array {name!r}; arrays there: {there}")
    array: NDArray[Any] = np.asarray(content[name])
    return array


def _array_image(array: NDArray[Any], source: Path, card: Card) -> Image.Image:
    if array.ndim != 3 or array.shape[2] != card.channels or array.dtype != np.uint8 or not array.size:
        raise UserError(
            f"{source}: array {card.image_array} must be uint8, height × width × {card.channels}; "
            f"it is {array.dtype}, {' × '.join(map(str, array.shape))}"
        )
    return Image.fromarray(np.ascontiguousarray(array[..., :3]))


def _array_ids(array: NDArray[Any], source: Path, name: str) -> NDArray[np.int32]:
    whole = array.dtype.kind in "uib" or (array.dtype.kind == "f" and bool((array == np.rint(array)).all()))
    if array.ndim != 2 or not whole:
        shape = " × ".join(map(str, array.shape))
        raise UserError(f"{source}: array {name} must be integers, height × width; it is {array.dtype}, {shape}")
    return array.clip(-1, _RAW_IDS).astype(np.int32)
