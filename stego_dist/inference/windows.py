"""Images that are larger than what the network looks at in one piece: windows that cover them, blended into one map.

In: the size of an image at the scale of the network. Out: places of windows, and where they overlap weights that fall
off linearly towards a window's edges, so that no window's border shows. All places are multiples of the stride, so that
the positions of a map lie on one grid, whichever window they come from.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Window:
    """A rectangle, in positions of the grid."""

    top: int
    left: int
    height: int
    width: int


def cover(height: int, width: int, side: int, overlap: int) -> list[Window]:
    """Windows of at most `side` positions a side over a grid (height, width), row by row; one where the grid fits.

    Neighbours share at least `overlap` positions. Raises ValueError unless overlap < side.
    """
    if not 0 <= overlap < side:
        raise ValueError(f"an overlap of {overlap} in windows of {side}")
    tall, wide = min(side, height), min(side, width)
    return [
        Window(top, left, tall, wide)
        for top in _starts(height, tall, overlap)
        for left in _starts(width, wide, overlap)
    ]


def _starts(length: int, side: int, overlap: int) -> list[int]:
    """Evenly spread starts, the first 0, the last length − side."""
    if length <= side:
        return [0]
    count = -(-(length - overlap) // (side - overlap))
    return [round(i * (length - side) / (count - 1)) for i in range(count)]


class Blend:
    """A map (C, height, width) float32 on the host, of windows that come in any order.

    They are added in the order of `cover`, so that the order in which they come does not show.
    """

    def __init__(self, channels: int, height: int, width: int, windows: list[Window], overlap: int) -> None:
        self.windows, self.overlap = windows, overlap
        self.size = height, width
        self._whole: Tensor | None = None
        if len(windows) > 1:
            self._sum = torch.zeros(channels, height, width)
            self._weight = torch.zeros(height, width)
        self._next = 0
        self._waiting: dict[int, Tensor] = {}

    @property
    def done(self) -> bool:
        """Whether all windows have come."""
        return self._next == len(self.windows)

    def add(self, number: int, values: Tensor) -> None:
        """The map (C, h, w) of the window of this number."""
        self._waiting[number] = values
        while self._next in self._waiting:
            self._take(self.windows[self._next], self._waiting.pop(self._next))
            self._next += 1

    def _take(self, window: Window, values: Tensor) -> None:
        values = values.float().cpu()
        if len(self.windows) == 1:
            self._whole = values
            return
        weight = self._ramp(window.height, self.size[0])[:, None] * self._ramp(window.width, self.size[1])
        rows, columns = slice(window.top, window.top + window.height), slice(window.left, window.left + window.width)
        self._sum[:, rows, columns] += weight * values
        self._weight[rows, columns] += weight

    def _ramp(self, side: int, length: int) -> Tensor:
        """Weights (side,) that rise over the overlap from either end; 1 where there is only one window."""
        if side >= length:
            return torch.ones(side)
        rise = (torch.arange(side) + 0.5) / max(1, self.overlap)
        return torch.minimum(rise, rise.flip(0)).clamp(max=1)

    def result(self) -> Tensor:
        """The blended map (C, height, width)."""
        assert self.done
        return self._sum / self._weight if self._whole is None else self._whole
