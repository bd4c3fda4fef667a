"""Where the crops of an image lie. Five-crop follows the published code (torchvision's `five_crop`).

In: an image's size and name. Out: boxes (left, top, right, bottom) in pixels. Pure: the same arguments give
the same boxes on any machine.
"""

from __future__ import annotations

import hashlib
from typing import Literal

Crops = Literal["none", "five", "random"]
Box = tuple[int, int, int, int]
RANDOM_CROPS = 5


def crop_boxes(width: int, height: int, crops: Crops, ratio: float, seed: int, key: str) -> list[Box]:
    """The boxes of one image, in the order of the crops' numbers.

    `none`: the whole image. `five`: top-left, top-right, bottom-left, bottom-right, centre, each
    int(width · ratio) × int(height · ratio). `random`: five boxes of that size, drawn from (seed, key) alone.
    A side is at least one pixel. `ratio` is in (0, 1].
    """
    if crops == "none":
        return [(0, 0, width, height)]
    w, h = max(1, int(width * ratio)), max(1, int(height * ratio))
    right, bottom = width - w, height - h
    if crops == "five":
        centre = (round(right / 2), round(bottom / 2))
        corners = [(0, 0), (right, 0), (0, bottom), (right, bottom), centre]
    else:
        corners = [_draw(right, bottom, f"{seed}/{i}/{key}") for i in range(RANDOM_CROPS)]
    return [(x, y, x + w, y + h) for x, y in corners]


def _draw(right: int, bottom: int, text: str) -> tuple[int, int]:
    """A point in [0, right] × [0, bottom], uniform to one part in 2^64 or so."""
    drawn = hashlib.sha256(text.encode()).digest()
    return int.from_bytes(drawn[:16]) % (right + 1), int.from_bytes(drawn[16:]) % (bottom + 1)
