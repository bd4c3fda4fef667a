"""Run-length encodings of label maps: COCO's, as pycocotools writes it, and that of Label Studio's brush.

In: class ids (H, W). Out: per class that occurs, its mask. Runs are found once for all classes, a slab at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SLAB = 1 << 24
"""Pixels whose runs are looked for at a time."""
PIECE = 1 << 16
"""Numbers that become bits at a time."""
WORD, SIZES = 8, (3, 4, 8, 16)
"""Bits of a value, and of a length, in Label Studio's code."""


@dataclass(frozen=True)
class Runs:
    """A label map as runs of equal values, in the order of rows or of columns."""

    values: NDArray[np.integer]
    lengths: NDArray[np.int64]

    @classmethod
    def of(cls, labels: NDArray[np.integer], *, columns: bool = False) -> Runs:
        """Of class ids (H, W): row by row, or column by column."""
        maps = labels.T if columns else labels
        step = max(1, SLAB // max(1, maps.shape[1]))
        values, starts, done = [], [], 0
        last = None
        for first in range(0, len(maps), step):
            flat = maps[first : first + step].ravel()
            new = np.flatnonzero(np.concatenate([[last is None or flat[0] != last], flat[1:] != flat[:-1]]))
            values.append(flat[new])
            starts.append(new + done)
            done, last = done + flat.size, flat[-1]
        begins = np.concatenate([*starts, [done]])
        return cls(np.concatenate(values), np.diff(begins))

    def masks(self) -> Iterator[tuple[int, NDArray[np.int64]]]:
        """For each value that occurs: the value, and lengths of runs outside and inside in turns, outside first."""
        ends = np.cumsum(self.lengths)
        for value in np.unique(self.values):
            mine = np.flatnonzero(self.values == value)
            edges = np.stack([ends[mine] - self.lengths[mine], ends[mine]], 1).ravel()
            lengths = np.diff(np.concatenate([[0], edges, [ends[-1]]]))
            yield int(value), lengths[:-1] if lengths[-1] == 0 else lengths


def coco_counts(lengths: NDArray[np.int64]) -> str:
    """The compressed `counts` of pycocotools: each length, from the third on less the one before the last, in digits of
    five bits, the lowest first."""
    deltas = lengths.copy()
    deltas[3:] -= lengths[1:-2]
    text = []
    for delta in deltas.tolist():
        more = True
        while more:
            digit, delta = delta & 31, delta >> 5
            more = delta != (-1 if digit & 16 else 0)
            text.append(chr(48 + (digit | 32 if more else digit)))
    return "".join(text)


def box(lengths: NDArray[np.int64], height: int) -> list[int]:
    """Left, top, width and height of a mask that is given column by column."""
    ends = np.cumsum(lengths)
    first, last = ends[0 : len(lengths) - 1 : 2], ends[1::2] - 1  # of each run inside
    left, right = int(first[0]) // height, int(last[-1]) // height
    within = first // height == last // height
    top = int(np.where(within, first % height, 0).min())
    bottom = int(np.where(within, last % height, height - 1).max())
    return [left, top, right - left + 1, bottom - top + 1]


def brush_rle(lengths: NDArray[np.int64]) -> list[int]:
    """Bytes of Label Studio's brush for a mask given row by row: the mask as four channels of 0 or 255.

    A header (32 bits: how many values; 5: bits of a value − 1; four times 4: bits of a length − 1), then runs: a bit 1,
    2 bits for which of the four sizes the length has, the length − 1, the value.
    """
    most = 1 << SIZES[-1]
    channels = 4 * lengths
    values = np.where(np.arange(len(lengths)) % 2, 255, 0)
    pieces = -(-channels // most)  # a long run is several
    values = np.repeat(values, pieces)
    last = np.cumsum(pieces) - 1
    parts = np.full(len(values), most, np.int64)
    parts[last[pieces > 0]] = (channels - (pieces - 1) * most)[pieces > 0]
    which = np.searchsorted([1 << size for size in SIZES], parts)
    sizes = np.array(SIZES)[which]
    codes = (((0b100 | which) << sizes) | (parts - 1)) << WORD | values
    numbers = np.concatenate([[channels.sum(), WORD - 1], [size - 1 for size in SIZES], codes])
    widths = np.concatenate([[32, 5], [4] * len(SIZES), 3 + sizes + WORD])
    bits = np.concatenate([_bits(numbers[i : i + PIECE], widths[i : i + PIECE]) for i in range(0, len(widths), PIECE)])
    found: list[int] = np.packbits(bits).tolist()
    return found


def _bits(numbers: NDArray[np.int64], widths: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Numbers in so many bits each, one after the other, the highest first."""
    shifts = np.repeat(np.cumsum(widths), widths) - 1 - np.arange(widths.sum())
    found: NDArray[np.uint8] = (np.repeat(numbers, widths) >> shifts & 1).astype(np.uint8)
    return found
