"""A contact sheet: what the samples of a split look like, with their labels laid over them.

In: a split of a shard set. Out: a PNG, image and overlay side by side, the classes' colours below.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from stego_dist.data.card import IGNORED
from stego_dist.data.manifest import ShardSet
from stego_dist.data.samples import ShardSamples
from stego_dist.rundir import atomic_path

TILE, CAPTION, GAP, PAIRS_A_ROW = 224, 18, 8, 3
_BACKGROUND, _INK = (255, 255, 255), (40, 40, 40)


def contact_sheet(shard_set: ShardSet, split: str, path: Path, count: int = 12) -> None:
    """Write a PNG of `count` samples, spread evenly over the split, as the network sees them: centre squares.

    Ignored pixels keep the image's colours. Raises UserError for a sample that cannot be read.
    """
    samples = ShardSamples(shard_set, split)
    labelled = samples.split.labelled
    picked = np.unique(np.linspace(0, len(samples) - 1, min(count, len(samples))).astype(int)).tolist()
    cell = (2 if labelled else 1) * TILE + GAP
    columns = min(len(picked), PAIRS_A_ROW if labelled else 2 * PAIRS_A_ROW)
    rows = -(-len(picked) // columns)
    width, height = columns * cell + GAP, rows * (TILE + CAPTION + GAP) + GAP
    legend = _legend(shard_set, width) if labelled else []
    height += (legend[-1][1] + CAPTION + GAP) if legend else 0
    sheet = Image.new("RGB", (width, height), _BACKGROUND)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    for n, i in enumerate(picked):
        x, y = GAP + n % columns * cell, GAP + n // columns * (TILE + CAPTION + GAP)
        view, label = samples.view(i, TILE, "bilinear")
        pixels = view.permute(1, 2, 0).numpy()
        sheet.paste(Image.fromarray(pixels), (x, y))
        if label is not None:
            overlay = _overlay(pixels, label.numpy(), shard_set.palette)
            sheet.paste(Image.fromarray(overlay), (x + TILE, y))
        name = samples.name(i)
        draw.text((x, y + TILE + 2), name if len(name) <= 32 else "…" + name[-31:], _INK, font)
    top = rows * (TILE + CAPTION + GAP) + GAP
    for x, y, name, colour in legend:
        draw.rectangle((x, top + y + 2, x + 12, top + y + 14), colour, _INK)
        draw.text((x + 18, top + y), name, _INK, font)
    with atomic_path(path) as tmp:
        sheet.save(tmp, "PNG")


def _overlay(
    pixels: np.ndarray[tuple[int, ...], np.dtype[np.uint8]],
    label: np.ndarray[tuple[int, ...], np.dtype[np.uint8]],
    palette: list[tuple[int, int, int]],
) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """Image (H, W, 3) and class colours half and half, where there is a label."""
    colours = np.array([*palette, *[(0, 0, 0)] * (256 - len(palette))], np.uint16)[label]
    mixed = ((pixels + colours) // 2).astype(np.uint8)
    return np.where((label == IGNORED)[..., None], pixels, mixed)


def _legend(shard_set: ShardSet, width: int) -> list[tuple[int, int, str, tuple[int, int, int]]]:
    """Where each class's name and colour go: x, y, name, colour, broken into lines."""
    font, placed = ImageFont.load_default(12), []
    x = y = 0
    for name, colour in zip(shard_set.classes, shard_set.palette):
        wide = round(font.getlength(name)) + 36
        if x and x + wide > width - GAP:
            x, y = 0, y + CAPTION
        placed.append((GAP + x, y, name, colour))
        x += wide
    return placed
