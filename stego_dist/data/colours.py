"""Colours that can be told apart: each is as far as can be from all before it, as the eye sees distance.

Distances are Euclidean in OKLab (Ottosson, 2020), where 0.02 is about what can just be noticed side by side.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Colour = tuple[int, int, int]
"""Red, green, blue in 0…255."""
LEVELS = range(0, 256, 15)
"""Of each channel, among which colours are chosen."""
LIGHTNESS = (0.35, 0.97)
"""The darkest and the lightest that is chosen: what has no label is black, and pages are white."""
BLACK = (0, 0, 0)

_TO_CONES = [
    [0.4122214708, 0.5363325363, 0.0514459929],
    [0.2119034982, 0.6806995451, 0.1073969566],
    [0.0883024619, 0.2817188376, 0.6299787005],
]
_TO_LAB = [
    [0.2104542553, 0.7936177850, -0.0040720468],
    [1.9779984951, -2.4285922050, 0.4505937099],
    [0.0259040371, 0.7827717662, -0.8086757660],
]


def distinct_colours(count: int, taken: Sequence[Colour] = ()) -> list[Colour]:
    """`count` colours far from each other, from those that are taken and from black; a function of its arguments.

    More of them begin with the same ones. Where nothing is taken the first 27 keep a distance of 0.13, the first 64 of
    0.09; there are some thousands, after which they repeat.
    """
    return list(_chosen(count, tuple(taken)))


@lru_cache(maxsize=64)
def _chosen(count: int, taken: tuple[Colour, ...]) -> tuple[Colour, ...]:
    rgb = np.stack(np.meshgrid(LEVELS, LEVELS, LEVELS, indexing="ij"), -1).reshape(-1, 3)
    lab = oklab(rgb)
    inside = (lab[:, 0] >= LIGHTNESS[0]) & (lab[:, 0] <= LIGHTNESS[1])
    rgb, lab = rgb[inside], lab[inside]
    near = np.full(len(rgb), np.inf)
    for other in oklab(np.array([BLACK, *taken])):
        near = np.minimum(near, np.square(lab - other).sum(1))
    chosen: list[Colour] = []
    for _ in range(count):
        place = int(near.argmax())
        red, green, blue = rgb[place].tolist()
        chosen.append((red, green, blue))
        near = np.minimum(near, np.square(lab - lab[place]).sum(1))
    return tuple(chosen)


def oklab(rgb: NDArray[np.integer]) -> NDArray[np.float64]:
    """sRGB colours (n, 3) in 0…255 in OKLab (n, 3)."""
    share = np.asarray(rgb, np.float64) / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    lab: NDArray[np.float64] = np.cbrt(linear @ np.transpose(_TO_CONES)) @ np.transpose(_TO_LAB)
    return lab
