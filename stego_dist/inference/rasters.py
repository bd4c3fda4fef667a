"""Images that are read in parts: in memory here, from a file in geo.py."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from stego_dist.data.transforms import Resize, to_training_view

ROWS = 512
"""Rows of an image that are copied at a time."""


class Raster(Protocol):
    """An image that can be read in parts."""

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) in its own pixels."""

    @property
    def held(self) -> int:
        """Bytes that it takes in memory."""

    def scaled(self, height: int, width: int, resize: Resize = "bilinear") -> Raster:
        """The same resized."""

    def region(self, top: int, left: int, height: int, width: int) -> Tensor:
        """uint8 (3, height, width) on the host; what lies beyond repeats the last row and column."""


@dataclass(frozen=True, eq=False)
class Pixels:
    """A `Raster` in memory: uint8 (3, H, W)."""

    pixels: Tensor

    @classmethod
    def of(cls, image: Image.Image) -> Pixels:
        """Of an RGB image, a band at a time: at once Pillow would need three times as much memory."""
        array = np.empty((image.height, image.width, 3), np.uint8)
        for first in range(0, image.height, ROWS):
            last = min(first + ROWS, image.height)
            array[first:last] = np.asarray(image.crop((0, first, image.width, last)))
        return cls(torch.from_numpy(array).permute(2, 0, 1))

    @property
    def size(self) -> tuple[int, int]:
        """(H, W)."""
        return self.pixels.shape[1], self.pixels.shape[2]

    @property
    def held(self) -> int:
        """Its bytes."""
        return self.pixels.numel()

    def scaled(self, height: int, width: int, resize: Resize = "bilinear") -> Pixels:
        """Resized as evaluation resizes."""
        if (height, width) == self.size:
            return self
        image = Image.fromarray(self.pixels.permute(1, 2, 0).numpy())
        return Pixels(to_training_view(image, min(height, width), resize, "none"))

    def region(self, top: int, left: int, height: int, width: int) -> Tensor:
        """A part."""
        part = self.pixels[:, top : top + height, left : left + width]
        return pad_to(part, height, width)


def pad_to(part: Tensor, height: int, width: int) -> Tensor:
    """(C, h, w) with its last row and column repeated up to (C, height, width)."""
    rows = torch.arange(height).clamp(max=part.shape[1] - 1)
    columns = torch.arange(width).clamp(max=part.shape[2] - 1)
    return part if part.shape[1:] == (height, width) else part[:, rows][:, :, columns]


def whole(raster: Raster) -> Tensor:
    """All of it, uint8 (3, H, W)."""
    return raster.region(0, 0, *raster.size)


def within(size: tuple[int, int], pixels: int, longest: int) -> tuple[int, int]:
    """A size (H, W) of at most so many pixels, and so many on a side, in the same proportions."""
    height, width = size
    shorter, longer = min(size), max(size)
    if height * width <= pixels and longer <= longest:
        return size
    side = max(1, int(min((pixels * shorter / longer) ** 0.5, longest * shorter / longer)))
    longer = min(int(side * longer / shorter), longest)
    return (side, longer) if height <= width else (longer, side)
