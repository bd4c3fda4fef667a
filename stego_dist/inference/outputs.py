"""What is written about an image: its index map, its overlay, probabilities, and a record of all that.

    OUT/index/NAME.png         class ids with the classes' colours as palette; .tif for images that were read in parts
    OUT/overlay/NAME.jpg       the colours over the image
    OUT/probabilities/NAME.npz probabilities (classes, h, w) float16 on the network's grid
    OUT/records/NAME.json      what it was made from, size, shares and confidence by class; written last

A segmentation goes through in bands of rows: of a large image neither the maps nor the overlay exist in full.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from stego_dist.inference import geo
from stego_dist.inference.exchange import brush_results, coco_annotations
from stego_dist.inference.inputs import Input
from stego_dist.inference.options import Options
from stego_dist.inference.rasters import Raster, whole, within
from stego_dist.inference.segmentation import Band, Segmentation, Tally, index_picture, nearest
from stego_dist.rundir import atomic_path, digest, read_json, remove_leftovers

RECORDS = "records"
FOLDERS = ("index", "overlay", "probabilities", RECORDS)
OVERLAY_PIXELS, OVERLAY_SIDE = 1 << 24, 16_383
"""Overlays of larger images are reduced to so many pixels; the side is what WebP takes."""
SHARE_DIGITS, CONFIDENCE_DIGITS = 6, 4
"""Of what is written; the rounding of other batch sizes is far below."""


class Outputs:
    """The files of an output folder, as they are made from `made` (see options.made_from); one command writes to it at
    a time."""

    def __init__(self, out: Path, options: Options, made: dict[str, Any]) -> None:
        self.out, self.options, self.made = out, options, digest(made)

    def record_path(self, name: str) -> Path:
        """The record of an image."""
        return self.out / RECORDS / f"{name}.json"

    def record(self, name: str) -> dict[str, Any]:
        """The record of an image that is done."""
        found: dict[str, Any] = read_json(self.record_path(name), "the record of an image", "Predict it again.")
        return found

    def made_of(self, item: Input) -> str:
        """Digest of all that an image's files depend on. Raises UserError: it can't be had."""
        return digest([self.made, item.source.identity, item.source.stamp()])

    def is_done(self, item: Input) -> bool:
        """Whether all files of an image are there, made from what they would be made from now."""
        with contextlib.suppress(Exception):  # no image any more, no record, or one that is damaged
            record = self.record(item.name)
            return record["made"] == self.made_of(item) and all(
                (self.out / path).is_file() for path in record["image"]["outputs"].values()
            )
        return False

    def forget(self, item: Input) -> None:
        """Remove what an earlier run made of an image that can't be read any more."""
        with contextlib.suppress(Exception):
            for path in self.record(item.name)["image"]["outputs"].values():
                (self.out / path).unlink(missing_ok=True)
        self.record_path(item.name).unlink(missing_ok=True)

    def clean(self) -> None:
        """Remove what a killed process left half written."""
        for kind in FOLDERS:
            for folder in [self.out / kind, *(self.out / kind).rglob("*/")]:
                remove_leftovers(folder)
        remove_leftovers(self.out)

    def write(self, item: Input, made: str, raster: Raster, segmentation: Segmentation) -> None:
        """All files of an image, the record last."""
        name, names = item.name, segmentation.names
        tally, overlay = Tally(names), _Overlay(raster, segmentation, self.options.opacity)
        outputs = {"index": f"index/{name}.{'tif' if isinstance(raster, geo.TiffRaster) else 'png'}"}
        wants_map = self.options.coco or self.options.label_studio is not None
        with self._index(self.out / outputs["index"], raster, segmentation, wants_map) as index:
            for band in segmentation.bands():
                tally.add(band)
                index.add(band)
                if self.options.overlay != "none":
                    overlay.add(band)
        if self.options.overlay != "none":
            outputs["overlay"] = f"overlay/{name}.{self.options.overlay}"
            with atomic_path(self.out / outputs["overlay"]) as tmp:
                kinds = {"jpg": "JPEG", "webp": "WEBP", "png": "PNG"}
                overlay.image().save(tmp, kinds[self.options.overlay], quality=90)
        if self.options.probabilities:
            outputs["probabilities"] = f"probabilities/{name}.npz"
            self._write_probabilities(self.out / outputs["probabilities"], segmentation)
        shares, confidences = tally.shares(), tally.confidences()
        height, width = segmentation.size
        image: dict[str, Any] = {
            "name": name,
            "file": item.source.where,
            "width": width,
            "height": height,
            "classes": {
                c: {"share": round(shares[c], SHARE_DIGITS), "confidence": round(confidences[c], CONFIDENCE_DIGITS)}
                for c in shares
            },
            "outputs": outputs,
        }
        record: dict[str, Any] = {"made": made, "image": image}
        if self.options.coco:
            record["coco"] = coco_annotations(index.labels)
        if self.options.label_studio is not None:
            record["label_studio"] = brush_results(index.labels, names)
        with atomic_path(self.record_path(name)) as tmp:  # in one line: masks are long lists of numbers
            tmp.write_text(json.dumps(record, ensure_ascii=False, allow_nan=False), "utf-8")

    @contextlib.contextmanager
    def _index(self, path: Path, raster: Raster, segmentation: Segmentation, wants_map: bool) -> Iterator[_Index]:
        parts = isinstance(raster, geo.TiffRaster)
        index = _Index(segmentation, in_memory=wants_map or not parts)
        with atomic_path(path) as tmp:
            if isinstance(raster, geo.TiffRaster):
                with geo.map_writer(tmp, raster, [c.colour for c in segmentation.names.classes]) as index.file:
                    yield index
            else:
                yield index
                index_picture(index.labels, segmentation.names).save(tmp, "PNG")

    @staticmethod
    def _write_probabilities(path: Path, segmentation: Segmentation) -> None:
        with atomic_path(path) as tmp, tmp.open("wb") as file:
            np.savez_compressed(
                file,
                probabilities=segmentation.grid_probabilities.astype(np.float16),
                extent=np.array(segmentation.extent),
                size=np.array(segmentation.size),
                classes=np.array([c.name for c in segmentation.names.classes]),
            )


class _Index:
    """Class ids on their way into a file."""

    file: Any = None

    def __init__(self, segmentation: Segmentation, *, in_memory: bool) -> None:
        self.labels: NDArray[np.integer] = np.empty(segmentation.size if in_memory else (0, 0), np.uint8)
        if len(segmentation.names.classes) > 256:
            self.labels = self.labels.astype(np.uint16)

    def add(self, band: Band) -> None:
        if self.labels.size:
            self.labels[band.first : band.first + len(band.labels)] = band.labels
        if self.file is not None:
            geo.write_rows(self.file, band.first, band.labels)


class _Overlay:
    """The colours over the image, both reduced where it is large."""

    def __init__(self, raster: Raster, segmentation: Segmentation, opacity: float) -> None:
        self.raster, self.opacity, self.full = raster, opacity, segmentation.size
        self.size = within(self.full, OVERLAY_PIXELS, OVERLAY_SIDE)
        self.colours = np.array([c.colour for c in segmentation.names.classes], np.uint8)
        self.rows = nearest(np.arange(self.size[0]), self.size[0], self.full[0])
        self.columns = nearest(np.arange(self.size[1]), self.size[1], self.full[1])
        self.painted = np.empty((*self.size, 3), np.uint8)

    def add(self, band: Band) -> None:
        first, last = np.searchsorted(self.rows, [band.first, band.first + len(band.labels)])
        self.painted[first:last] = self.colours[band.labels[self.rows[first:last] - band.first][:, self.columns]]

    def image(self) -> Image.Image:
        below = whole(self.raster.scaled(*self.size)).permute(1, 2, 0).contiguous().numpy()
        return Image.blend(Image.fromarray(below), Image.fromarray(self.painted), self.opacity)
