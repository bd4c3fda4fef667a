"""Small copies of the benchmark sets, in their original layout: folders, file types, id ranges, voids.

In: an empty folder. Out: `Miniature`: what the files say, as arrays, by split and key. Nothing in here reads a
card, so that the tests can hold cards against it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.io import savemat

Pixels = NDArray[np.uint8]
Ids = NDArray[np.integer]


@dataclass
class Miniature:
    """What was written: split → key → pixels (H, W, 3), and raw ids (H, W) or None without a label."""

    root: Path
    samples: dict[str, dict[str, tuple[Pixels, Ids | None]]] = field(default_factory=dict)

    def add(self, split: str, key: str, pixels: Pixels, raw: Ids | None) -> None:
        self.samples.setdefault(split, {})[key] = pixels, raw


def gradient(width: int, height: int, seed: int, channels: int = 3) -> Pixels:
    """Smooth pixels, which JPEG hardly changes; channels differ, and so do seeds."""
    y, x = np.mgrid[:height, :width]
    ramps = [x / width, y / height, 1 - x / width, (x + y) / (width + height)]
    planes = [30 + 150 * ramp + 7 * (seed % 5) + 11 * c for c, ramp in enumerate(ramps[:channels])]
    return np.stack(planes, 2).astype(np.uint8)


def every(ids: Iterable[int], width: int, height: int, seed: int) -> NDArray[np.uint8]:
    """A label map in which every id occurs, in an order of its own."""
    wanted = np.array([*ids], np.uint8)
    assert wanted.size <= width * height
    filled = np.resize(wanted, width * height)
    return np.random.default_rng(seed).permutation(filled).reshape(height, width)


def save(path: Path, pixels: Ids | Image.Image, **params: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(path, **params)
    return path


def write_list(path: Path, keys: Iterable[str], end: str = "\n") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes("".join(key + end for key in keys).encode())
    return path


# COCO-Stuff

LISTS = ("Coco164kFull_Stuff_Coarse.txt", "Coco164kFull_Stuff_Coarse_7.txt", "Coco164kFew_Stuff_6.txt")


def cocostuff(root: Path) -> Miniature:
    """Two folders of JPEGs and grey PNGs with ids 0–181 and 255; curated lists of 4, 3 and 2 of the 5 images."""
    mini = Miniature(root)
    for split, first in (("train", 9), ("val", 139)):
        folder = f"{split}2017"
        for i in range(5):
            key, size = f"{first + 100 * i:012d}", (20, 16) if i % 2 else (16, 20)
            image = save(root / f"images/{folder}/{key}.jpg", gradient(*size, i), quality=95)
            raw = every([*range(182), 255], *size, seed=first + i)
            save(root / f"annotations/{folder}/{key}.png", raw)
            mini.add(split, key, np.asarray(Image.open(image)), raw)
        keys = list(mini.samples[split])
        for name, count in zip(LISTS, (4, 3, 2)):
            write_list(root / "curated" / folder / name, keys[::-1][:count])
    return mini


# Cityscapes


def cityscapes(root: Path) -> Miniature:
    """PNGs by city; labelIds 0–33 and 255 beside colours, instance ids and polygons that must not be read."""
    mini = Miniature(root)
    for split, cities in (("train", ("aachen", "zurich")), ("val", ("lindau",))):
        for city in cities:
            for i in range(2):
                stem, size = f"{city}_{i:06d}_000019", (24, 12)
                pixels, raw = gradient(*size, i), every([*range(34), 255], *size, seed=i + len(city))
                save(root / f"leftImg8bit/{split}/{city}/{stem}_leftImg8bit.png", pixels)
                label = root / f"gtFine/{split}/{city}/{stem}_gtFine_labelIds.png"
                save(label, raw)
                save(label.with_name(f"{stem}_gtFine_color.png"), np.zeros((12, 24, 4), np.uint8))
                save(label.with_name(f"{stem}_gtFine_instanceIds.png"), raw.astype(np.uint16) * 1000)
                label.with_name(f"{stem}_gtFine_polygons.json").write_text("{}")
                mini.add(split, f"{city}/{stem}", pixels, raw)
    return mini


# Potsdam

POTSDAM_COLOURS = [(255, 255, 255), (0, 0, 255), (0, 255, 255), (0, 255, 0), (255, 255, 0), (255, 0, 0)]


def potsdam(root: Path) -> Miniature:
    """The published tiles: .mat with img (200, 200, 4) uint8 and gt (200, 200) int32; lists of numbers."""
    mini = Miniature(root)
    parts = {"train": (7, 0, 8549), "val": (12, 3), "unlabelled_train": (5, 11)}
    for number, (split, tiles) in enumerate(parts.items()):
        for tile in tiles:
            pixels = gradient(200, 200, number + tile % 7, channels=4)
            labelled = split != "unlabelled_train"
            raw = every([*range(6), 255], 200, 200, seed=tile).astype(np.int32) if labelled else None
            for folder, name, array in (("imgs", "img", pixels), ("gt", "gt", raw)):
                (root / folder).mkdir(parents=True, exist_ok=True)
                if array is not None:
                    savemat(root / folder / f"{tile}.mat", {name: array}, do_compression=tile % 2 == 1)
            for belongs in (split, "all"):
                mini.add(belongs, str(tile), pixels[..., :3], raw)
    lists = {"train": "labelled_train", "val": "labelled_test", "unlabelled_train": "unlabelled_train", "all": "all"}
    for split, name in lists.items():
        write_list(root / f"{name}.txt", mini.samples[split])
    return mini


def potsdam_raw(
    root: Path, keys: dict[str, tuple[str, ...]] | None = None, size: tuple[int, int] = (800, 800), extra: int = 0
) -> Miniature:
    """Whole images, smaller than 6000×6000: four-channel TIFFs, and RGB TIFFs in six colours, with world files."""
    mini = Miniature(root)
    for split, names in (keys or {"train": ("2_10", "7_12"), "val": ("6_14",)}).items():
        for i, name in enumerate(names):
            pixels = gradient(*size, i + len(split), channels=4)
            pixels[..., 3] = np.random.default_rng(i).integers(0, 256, size[::-1])
            raw = every(range(6), *size, seed=i)
            image = root / f"2_Ortho_RGBIR/top_potsdam_{name}_RGBIR.tif"
            save_rgbir(image, pixels, extra)
            image.with_suffix(".tfw").write_text("0.05\n0.0\n")
            save(
                root / f"5_Labels_all/top_potsdam_{name}_label.tif",
                np.array(POTSDAM_COLOURS, np.uint8)[raw],
                compression="tiff_lzw",
            )
            mini.add(split, f"potsdam_{name}", pixels[..., :3], raw)
    return mini


def save_rgbir(path: Path, pixels: Pixels, extra: int) -> None:
    """An uncompressed TIFF of four samples; `extra` calls the fourth 0 something, 1 premultiplied alpha, 2 alpha.

    Pillow itself writes 2 only.
    """
    height, width, _ = pixels.shape
    entries = 12
    bits = 8 + 2 + entries * 12 + 4
    tags = [
        (256, 3, 1, width), (257, 3, 1, height), (258, 3, 4, bits), (259, 3, 1, 1), (262, 3, 1, 2),
        (273, 4, 1, bits + 8), (274, 3, 1, 1), (277, 3, 1, 4), (278, 3, 1, height), (279, 4, 1, pixels.size),
        (284, 3, 1, 1), (338, 3, 1, extra),
    ]  # fmt: skip
    assert len(tags) == entries
    head = struct.pack("<2sHIH", b"II", 42, 8, entries) + b"".join(struct.pack("<HHII", *tag) for tag in tags)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(head + struct.pack("<I4H", 0, 8, 8, 8, 8) + pixels.tobytes())


# VOC, CamVid, folder


def voc(root: Path) -> Miniature:
    """Palette PNGs with indices 0–20 and 255; most JPEGs are of other tasks and in no list."""
    mini = Miniature(root)
    palette = np.random.default_rng(0).integers(0, 256, 768).astype(np.uint8)
    for split, keys in (("train", ("2007_000032", "2011_003276")), ("val", ("2007_000033",)), ("", ("2008_000001",))):
        for i, key in enumerate(keys):
            image = save(root / f"JPEGImages/{key}.jpg", gradient(25, 15, i), quality=95)
            if not split:
                continue
            raw = every([*range(21), 255], 25, 15, seed=i)
            label = Image.frombytes("P", (25, 15), raw.tobytes())
            label.putpalette(palette.tobytes())
            save(root / f"SegmentationClass/{key}.png", label)
            for belongs in (split, "trainval"):
                mini.add(belongs, key, np.asarray(Image.open(image)), raw)
    for split, samples in mini.samples.items():
        write_list(root / f"ImageSets/Segmentation/{split}.txt", samples)
    return mini


def camvid(root: Path) -> Miniature:
    """PNGs and ids 0–11 (11 is void) in folders beside each other."""
    mini = Miniature(root)
    for split in ("train", "val"):
        for i in range(2):
            pixels, raw = gradient(24, 18, i), every(range(12), 24, 18, seed=i)
            save(root / f"{split}/0001TP_{i:06d}.png", pixels)
            save(root / f"{split}annot/0001TP_{i:06d}.png", raw)
            mini.add(split, f"0001TP_{i:06d}", pixels, raw)
    return mini


def folder(root: Path, labels: bool = True) -> Miniature:
    """Images in subfolders; ids 0–4 and 255, 8 and 16 bits deep; or no labels."""
    mini = Miniature(root)
    for split in ("train", "val"):
        for i in range(2):
            pixels = gradient(24, 18, i)
            raw = every([*range(5), 255], 24, 18, seed=i) if labels else None
            save(root / f"imgs/{split}/trip {i}/a.png", pixels)
            if raw is not None:
                save(root / f"labels/{split}/trip {i}/a.png", raw.astype(np.uint16) if i else raw)
            mini.add(split, f"trip {i}/a", pixels, raw)
    return mini


MINIATURES: dict[str, Callable[[Path], Miniature]] = {
    "camvid11": camvid,
    "cityscapes19": cityscapes,
    "cityscapes27": cityscapes,
    "cocostuff15": cocostuff,
    "cocostuff171": cocostuff,
    "cocostuff27": cocostuff,
    "cocostuff3": cocostuff,
    "folder": folder,
    "potsdam3": potsdam,
    "potsdam3_raw": potsdam_raw,
    "voc21": voc,
}
