"""From one raw image to the samples that are packed of it.

In: a pair of files, the card, the options. Out: JPEG bytes, class ids and what the sample's JSON says, a crop each.

1. the image is decoded completely, whatever happens to it, so that damaged files are found here;
2. `max_side`: it is shrunk so that its longer side fits, the label by nearest neighbour;
3. the crops are cut and encoded; a plain JPEG that is neither shrunk nor cropped keeps its bytes.

Shrinking decodes at full size: JPEG's scaled decoding averages squares of pixels, which is not the filter below, and
would treat PNG and JPEG sources unlike.
"""

from __future__ import annotations

import io
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from stego_dist.data.card import Card
from stego_dist.data.crops import Box, crop_boxes
from stego_dist.data.encodings import read_source
from stego_dist.data.sources import Source
from stego_dist.errors import UserError

if TYPE_CHECKING:
    from stego_dist.data.plan import BuildOptions


@dataclass(frozen=True)
class Cut:
    """One sample to be packed."""

    jpeg: bytes
    label: NDArray[np.uint8] | None
    """(H, W) class ids, 255 ignored; None without labels."""
    meta: dict[str, Any]
    """`box` and `size` of the sample's JSON."""

    @property
    def pixels(self) -> list[int]:
        """Labelled pixels by id, 256 counts."""
        return [0] * 256 if self.label is None else Image.fromarray(self.label).histogram()

    @property
    def label_png(self) -> bytes | None:
        """The label as it is packed. Runs of one id are what label maps are made of: coding them as such takes half
        the time of Pillow's default and fewer bytes (tests/benchmarks/results/shards.md)."""
        return None if self.label is None else _encode(Image.fromarray(self.label), "PNG", compress_type=zlib.Z_RLE)


def cut_image(source: Source, card: Card, options: BuildOptions, labelled: bool) -> list[Cut]:
    """All samples of one image, in the order of the crops, so that an image is packed whole or not at all.

    Raises UserError naming the file and the cause: an unreadable image or label, a label that is missing, of another
    size or with unknown ids, an image too large for JPEG.
    """
    name = str(source.image)
    image, label, original = read_source(source, card, labelled, original=options.crops == "none")
    size = fitting(image.size, options.max_side)
    keep = original if size == image.size else None
    if size != image.size:
        image = image.resize(size, Image.Resampling.LANCZOS)
        label = None if label is None else np.asarray(Image.fromarray(label).resize(size, Image.Resampling.NEAREST))

    def cut(box: Box) -> Cut:
        left, top, right, bottom = box
        try:
            jpeg = keep or _encode(image.crop(box), "JPEG", quality=options.quality, subsampling=0)
        except (OSError, ValueError) as error:
            raise UserError(
                f"{name}: {right - left}×{bottom - top} pixels cannot be written as JPEG ({error}); --max-side shrinks"
            ) from None
        return Cut(jpeg, None if label is None else label[top:bottom, left:right], {"box": box, "size": image.size})

    return [cut(box) for box in crop_boxes(*image.size, options.crops, options.ratio, options.seed, source.key)]


def fitting(size: tuple[int, int], max_side: int | None) -> tuple[int, int]:
    """`size`, or the nearest of its proportions whose longer side is `max_side` where that is smaller."""
    longer = max(size)
    if max_side is None or longer <= max_side:
        return size
    width, height = (max(1, round(side * max_side / longer)) for side in size)
    return width, height


def _encode(image: Image.Image, kind: str, **params: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **params)
    return buffer.getvalue()
