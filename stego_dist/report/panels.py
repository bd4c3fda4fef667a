"""Pictures of single images: image, label, clusters in the colours of their matched classes, linear probe.

Each at its own aspect ratio, its longer side at most MAX_SIDE pixels, which bounds its bytes.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from stego_dist.data.colours import distinct_colours
from stego_dist.data.manifest import ShardSet
from stego_dist.engine.panel import Panel
from stego_dist.engine.predict import CLUSTERS
from stego_dist.engine.scoring import CRF
from stego_dist.engine.validate import Validation
from stego_dist.metrics.matching import Matching
from stego_dist.report.tables import readable
from stego_dist.rundir import atomic_path

Colours = NDArray[np.uint8]
GAP, HEADER, MAX_SIDE = 6, 18, 360


def write_panels(
    panels: Sequence[Panel],
    matchings: dict[str, Matching],
    results: dict[str, Any],
    shard_set: ShardSet,
    folder: Path,
) -> list[Path]:
    """Write one PNG an image to `folder`, replacing what was there; returns the files."""
    shutil.rmtree(folder, ignore_errors=True)
    palette, classes = shard_set.palette, shard_set.classes
    written = []
    for number, panel in enumerate(panels):
        tiles = _tiles(panel, matchings, palette)
        legend = list(zip(classes, palette)) if results["labelled"] else []
        path = folder / f"{number:03d}_{re.sub(r'[^A-Za-z0-9_-]+', '_', panel.name)[-60:]}.png"
        with atomic_path(path) as tmp:
            _compose(tiles, legend).save(tmp, format="PNG", optimize=True)
        written.append(path)
    return written


def write_samples(validation: Validation, shard_set: ShardSet, path: Path) -> None:
    """Write the panels of a validation as one PNG, an image a row."""
    rows = [_compose(_tiles(panel, validation.matchings, shard_set.palette), []) for panel in validation.panels]
    sheet = Image.new("RGB", (max(row.width for row in rows), sum(row.height for row in rows)), "white")
    top = 0
    for row in rows:
        sheet.paste(row, (0, top))
        top += row.height
    with atomic_path(path) as tmp:
        sheet.save(tmp, format="PNG", optimize=True)


def _tiles(
    panel: Panel, matchings: Mapping[str, Matching], palette: Sequence[tuple[int, int, int]]
) -> list[tuple[str, NDArray[np.uint8]]]:
    tiles = [("image", panel.image)]
    if panel.label is not None:
        tiles.append(("label", paint(panel.label, colours(palette))))
    for name, prediction in panel.predictions.items():
        tiles.append((readable(name), paint(prediction, prediction_colours(name, prediction, matchings, palette))))
    return tiles


def prediction_colours(
    name: str,
    prediction: NDArray[np.int16],
    matchings: Mapping[str, Matching],
    palette: Sequence[tuple[int, int, int]],
) -> Colours:
    """Colours of what a measure of this name predicted (H, W), at least as many as it shows."""
    if name.removesuffix(CRF) not in CLUSTERS:
        return colours(palette)
    matching = matchings.get(name)
    return cluster_colours(int(prediction.max()) + 1, matching.cluster_to_class if matching else None, palette)


def fitted(pixels: NDArray[np.uint8], longest: int, *, smooth: bool) -> Image.Image:
    """Pixels (H, W, channels) as an image whose longer side is at most `longest`; nothing is enlarged."""
    image = Image.fromarray(pixels)
    scale = min(1.0, longest / max(image.size))
    size = max(1, round(scale * image.width)), max(1, round(scale * image.height))
    if size == image.size:
        return image
    return image.resize(size, Image.Resampling.BILINEAR if smooth else Image.Resampling.NEAREST)


def colours(palette: Sequence[tuple[int, int, int]]) -> Colours:
    """A palette as an array (K, 3); black for ids beyond it is left to `paint`."""
    return np.array(palette or [(0, 0, 0)], dtype=np.uint8)


def cluster_colours(
    count: int, cluster_to_class: Sequence[int] | None, palette: Sequence[tuple[int, int, int]]
) -> Colours:
    """Colours of at least `count` clusters: of the matched class, or colours of their own where there is none."""
    own = distinct_colours(max(count, len(cluster_to_class or ())), palette)
    if cluster_to_class is None:
        return colours(own)
    return colours([palette[c] if c >= 0 else own[i] for i, c in enumerate(cluster_to_class)])


def paint(ids: NDArray[np.int16], tints: Colours) -> NDArray[np.uint8]:
    """Ids (H, W) as a picture (H, W, 3); −1 is black."""
    table = np.concatenate([tints, np.zeros((1, 3), np.uint8)])
    painted: NDArray[np.uint8] = table[np.where(ids < 0, len(tints), ids)]
    return painted


def _compose(tiles: list[tuple[str, NDArray[np.uint8]]], legend: list[tuple[str, tuple[int, int, int]]]) -> Image.Image:
    font = ImageFont.load_default(12)
    pictures = [(title, fitted(pixels, MAX_SIDE, smooth=title == "image")) for title, pixels in tiles]
    across, height = pictures[0][1].size
    step = across + GAP
    width = len(pictures) * step - GAP
    rows = _legend_rows(legend, width, font)
    sheet = Image.new("RGB", (width, HEADER + height + HEADER * len(rows) + (GAP if rows else 0)), "white")
    draw = ImageDraw.Draw(sheet)
    for i, (title, picture) in enumerate(pictures):
        draw.text((i * step, 2), title, fill="black", font=font)
        sheet.paste(picture, (i * step, HEADER))
    for r, row in enumerate(rows):
        y = HEADER + height + GAP + r * HEADER
        for x, name, colour in row:
            draw.rectangle((x, y + 2, x + 11, y + 13), fill=colour, outline="black")
            draw.text((x + 15, y + 1), name, fill="black", font=font)
    return sheet


def _legend_rows(
    legend: list[tuple[str, tuple[int, int, int]]], width: int, font: Any
) -> list[list[tuple[int, str, tuple[int, int, int]]]]:
    rows: list[list[tuple[int, str, tuple[int, int, int]]]] = []
    x = width
    for name, colour in legend:
        needed = 15 + int(font.getlength(name)) + 12
        if x + needed > width:
            rows.append([])
            x = 0
        rows[-1].append((x, name, colour))
        x += needed
    return rows
