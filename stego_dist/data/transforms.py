"""From a decoded sample to what the network sees, with torchvision's geometry.

In: a PIL image or a label array of any size. Out: uint8 tensors; scaling and normalisation are the model's.

1. the shorter side is resized to `resolution`, the longer one to int(resolution · long / short);
2. the centre square is cut out, its corner rounded half to even, as torchvision's CenterCrop does; or nothing is.

Of an image many times longer than wide only the part that the square shows is resized: the whole would take more
memory than there is. The result is the same up to rounding, because PIL chooses which axis it resizes first.

Pure: nothing here reads files or draws random numbers.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

Resize = Literal["bilinear", "nearest"]
Crop = Literal["centre", "none"]
MAX_ASPECT = 16
"""Long by short side from which the square is resized alone."""
_FILTERS = {"bilinear": Image.Resampling.BILINEAR, "nearest": Image.Resampling.NEAREST}


def to_training_view(image: Image.Image, resolution: int, resize: Resize, crop: Crop = "centre") -> torch.Tensor:
    """The centre square of an RGB image, uint8 (3, R, R), or all of it (3, H, W) with the shorter side R.

    `bilinear` is PIL's, which averages over the source pixels when it shrinks (antialias); `nearest` is what
    the published code does.
    """
    square = np.array(_cut(image, resolution, _FILTERS[resize], crop))
    return torch.from_numpy(square).permute(2, 0, 1).contiguous()


def label_view(label: NDArray[np.uint8], resolution: int, crop: Crop = "centre") -> torch.Tensor:
    """The same part of a label map, uint8 (H, W) → uint8 (R, R); ids are never mixed (nearest)."""
    square = _cut(Image.fromarray(label), resolution, Image.Resampling.NEAREST, crop)
    return torch.from_numpy(np.array(square))


def _cut(image: Image.Image, side: int, resample: Image.Resampling, crop: Crop) -> Image.Image:
    width, height = image.size
    longer = int(side * max(width, height) / min(width, height))
    size = (side, longer) if width <= height else (longer, side)
    if crop == "none":
        return image if size == image.size else image.resize(size, resample)
    if longer > MAX_ASPECT * side:
        start, scale = round((longer - side) / 2), max(width, height) / longer
        ends = (start * scale, (start + side) * scale)
        box = (0, ends[0], width, ends[1]) if width <= height else (ends[0], 0, ends[1], height)
        return image.resize((side, side), resample, box)
    if size != image.size:
        image = image.resize(size, resample)
    left, top = round((size[0] - side) / 2), round((size[1] - side) / 2)
    return image.crop((left, top, left + side, top + side))
