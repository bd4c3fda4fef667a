"""How a large image is cut into tiles.

In: the size of an image, and how to cut. Out: the box of every tile, in pixels of the image file.
"""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, Field, model_validator

from stego_dist.data.crops import Box


@dataclass(frozen=True)
class Tile:
    """One tile of an image, or of its label map."""

    row: int
    column: int
    box: Box
    """Left, top, right, bottom in pixels of the file."""
    shrink: int
    """Factor by which the box is reduced after it was cut."""
    image_size: tuple[int, int]
    """Width and height of the whole image."""

    @property
    def share(self) -> float:
        """Part of the image's pixels."""
        left, top, right, bottom = self.box
        return (right - left) * (bottom - top) / (self.image_size[0] * self.image_size[1])


class Tiling(BaseModel):
    """How images are cut. A tile goes by its image's key, its row and its column: `KEY_ROW_COLUMN`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    size: int = Field(ge=1)
    """Side of a tile as it is stored. An image that is smaller is one smaller tile."""
    overlap: int = Field(default=0, ge=0)
    """Pixels that neighbouring tiles share. Where the last tile of a row or column would stick out, it is
    moved back to end with the image, so that every pixel is in some tile."""
    shrink: int = Field(default=1, ge=1)
    """Factor by which images are reduced first: images by the mean of each block, labels by its top left pixel."""

    @model_validator(mode="after")
    def _check(self) -> Tiling:
        if self.overlap >= self.size:
            raise ValueError(f"tiles of {self.size} pixels cannot overlap by {self.overlap}")
        return self

    def tiles(self, width: int, height: int) -> list[Tile]:
        """The tiles of an image of this size, row by row. Pixels that do not fill a block of `shrink` are left out."""
        by = self.shrink
        return [
            Tile(row, column, (left * by, top * by, right * by, bottom * by), by, (width, height))
            for row, (top, bottom) in enumerate(self._spans(height // by))
            for column, (left, right) in enumerate(self._spans(width // by))
        ]

    def _spans(self, length: int) -> list[tuple[int, int]]:
        """Begin and end of the tiles along one side."""
        if length <= self.size:
            return [(0, length)] if length else []
        starts = list(range(0, length - self.size + 1, self.size - self.overlap))
        if starts[-1] + self.size < length:
            starts.append(length - self.size)
        return [(start, start + self.size) for start in starts]
