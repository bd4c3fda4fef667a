"""What was predicted lately: enough of each image to show and recolour it, and to make its files.

Kept in memory, packed: the upload as it came, the map of clusters as a PNG. The oldest go when there are too many.
"""

from __future__ import annotations

import gzip
import io
import secrets
from collections import OrderedDict
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from stego_dist.data.sources import open_image
from stego_dist.inference.model import Model
from stego_dist.inference.names import Names
from stego_dist.inference.segmentation import index_picture
from stego_dist.serve.refusals import Refused

KEEP = 12
KEEP_BYTES = 256_000_000
SHOWN = 2048
"""Pixels of the longer side of what the page shows; files that it gives have all."""


@dataclass(frozen=True)
class Seen:
    """An image with its clusters."""

    key: str
    """Nobody guesses it, so that whoever reaches the server sees their own images only."""
    name: str
    size: tuple[int, int]
    """(H, W)."""
    upload: bytes
    clusters: bytes
    """Winning clusters (H, W) as a PNG."""
    shares: tuple[float, ...]
    """Share of the pixels, by cluster."""
    preview: bytes
    """The upright image as the page shows it, a JPEG."""
    shown: tuple[int, int]
    """(h, w) of the preview and of `cells`."""
    cells: bytes
    """Clusters of the preview's pixels: gzip of uint16, little endian, row by row."""

    @cached_property
    def weight(self) -> int:
        """Bytes that are kept."""
        return len(self.upload) + len(self.clusters) + len(self.preview) + len(self.cells)

    @property
    def stem(self) -> str:
        """What names of files made of it begin with."""
        return self.name.rpartition(".")[0] or self.name

    def described(self) -> dict[str, Any]:
        """What the page needs besides pictures."""
        (height, width), (rows, columns) = self.size, self.shown
        return {
            "id": self.key,
            "name": self.name,
            "stem": self.stem,
            "width": width,
            "height": height,
            "shown": {"width": columns, "height": rows},
            "shares": self.shares,
        }

    def labels(self, names: Names) -> bytes:
        """PNG of classes with their palette, as `predict` writes it."""
        return _png(index_picture(self._labels(names), names))

    def overlay(self, names: Names, opacity: float) -> bytes:
        """PNG of the colours over the image."""
        colours = np.array([c.colour for c in names.classes], np.uint8)[self._labels(names)]
        return _png(Image.blend(open_image(self.upload, self.name), Image.fromarray(colours), opacity))

    def _labels(self, names: Names) -> NDArray[np.uint16]:
        """Class of every pixel (H, W)."""
        found: NDArray[np.uint16] = np.array(names.of_cluster, np.uint16)[
            np.array(Image.open(io.BytesIO(self.clusters)))
        ]
        return found


def look_at(model: Model, upload: bytes, name: str, max_pixels: int) -> Seen:
    """Predict. Raises UserError: it can't be decoded, or is too long for its width."""
    image = open_image(upload, name)
    height, width = model.seen_size((image.height, image.width))
    if height * width > max_pixels:
        raise Refused(
            413,
            f"{name}: {image.width}×{image.height} pixels would be seen at {width}×{height}, which is more than "
            f"{max_pixels / 1e6:g} million (--max-megapixels); cut it into pieces.",
        )
    found, size = model(np.array(image)).clusters, (image.height, image.width)
    clusters = len(model.names.of_cluster)
    image.thumbnail((SHOWN, SHOWN), reducing_gap=2.0)
    preview = io.BytesIO()
    image.save(preview, "JPEG", quality=90)
    rows, columns = (_sampled(all_, some) for all_, some in zip(size, (image.height, image.width)))
    counts = np.bincount(found.ravel(), minlength=clusters)
    return Seen(
        key=secrets.token_urlsafe(12),
        name=name,
        size=size,
        upload=upload,
        clusters=_png(Image.fromarray(found.astype(np.uint8 if clusters <= 256 else np.uint16))),
        shares=tuple((counts / found.size).tolist()),
        preview=preview.getvalue(),
        shown=(image.height, image.width),
        cells=gzip.compress(found[rows][:, columns].astype("<u2").tobytes(), 1),
    )


def _sampled(length: int, count: int) -> NDArray[np.intp]:
    """Which of `length` rows `count` rows show: the nearest."""
    return ((np.arange(count) + 0.5) * (length / count)).astype(np.intp)


def _png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=3)
    return file.getvalue()


class Shelf:
    """The last few, within KEEP and KEEP_BYTES; the newest always."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, Seen] = OrderedDict()

    def put(self, seen: Seen) -> None:
        """Keep one, and let go of the oldest."""
        self._kept[seen.key] = seen
        while len(self._kept) > 1 and (
            len(self._kept) > KEEP or sum(s.weight for s in self._kept.values()) > KEEP_BYTES
        ):
            self._kept.popitem(last=False)

    def get(self, key: str) -> Seen:
        """One that is still there. Raises Refused (404)."""
        if key not in self._kept:
            raise Refused(404, f"This image is no longer kept (the last {KEEP} are). Drop it again.")
        self._kept.move_to_end(key)
        return self._kept[key]
