"""What a model makes of one image: classes and probabilities at the image's own size.

Scores are kept on the network's grid, and brought to the size of the image in bands of rows, so that the K maps of a
large image never exist at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from stego_dist.engine.predict import SHARPNESS
from stego_dist.inference.names import Names

BAND = 1 << 22
"""Numbers of a band's maps."""


@dataclass(frozen=True)
class Segmentation:
    """The segmentation of an image of `size` (H, W); `str`, numbers and pictures of it go by `names`."""

    scores: Tensor
    """float32 (K, h, w) on the network's grid: products of codes with the unit centres of K clusters, or logits."""
    lengths: Tensor | None
    """float32 (h, w): lengths of the codes; None where scores are logits."""
    size: tuple[int, int]
    extent: tuple[float, float]
    """Rows and columns of the grid that the image takes; what is beyond was padded."""
    names: Names
    image: NDArray[np.uint8] | None = None
    """(H, W, 3), where it was kept."""
    refined: NDArray[np.int16] | None = None
    """Winning clusters (H, W) after a CRF, in place of those of the scores."""

    @cached_property
    def clusters(self) -> NDArray[np.int16]:
        """Winning cluster (or class of a linear probe) of every pixel, int16 (H, W)."""
        if self.refined is not None:
            return self.refined
        bands = [scores.argmax(0).to(torch.int16) for scores in self._bands(self.scores)]
        found: NDArray[np.int16] = torch.cat(bands).numpy()
        return found

    @cached_property
    def labels(self) -> NDArray[np.int16]:
        """Class of every pixel, int16 (H, W): an index into `names.classes`."""
        table = np.array(self.names.of_cluster, np.int16)
        found: NDArray[np.int16] = table[self.clusters]
        return found

    @cached_property
    def confidence(self) -> NDArray[np.float32]:
        """By how much the winner leads, float32 (H, W) in [0, 1]: the difference of the two largest cosines, or of the
        two largest probabilities of a linear probe. Clusters of one class do not compete."""
        bands = []
        for band in self._probability_bands(cosines=True):
            two = band.topk(min(2, len(band)), 0).values
            bands.append((two[0] - two[1] if len(two) == 2 else torch.ones_like(two[0])).clamp(0, 1))
        found: NDArray[np.float32] = torch.cat(bands).numpy()
        return found

    @cached_property
    def probabilities(self) -> NDArray[np.float32]:
        """Probabilities of classes, float32 (classes, H, W), all in memory.

        The softmax of a linear probe's logits, or of 2·cosine as the published code has it for its CRF, which is flat.
        A class has the sum of its clusters. What a CRF refined does not show in them.
        """
        found: NDArray[np.float32] = torch.cat(list(self._probability_bands(cosines=False)), 1).numpy()
        return found

    def shares(self) -> dict[str, float]:
        """Share of the image's pixels, by the name of the class; classes that it has not are left out."""
        counts = np.bincount(self.labels.ravel(), minlength=len(self.names.classes))
        return {c.name: float(n / self.labels.size) for c, n in zip(self.names.classes, counts) if n}

    def confidences(self) -> dict[str, float]:
        """Mean confidence over the pixels of each class that the image has."""
        flat, classes = self.labels.ravel(), len(self.names.classes)
        counts = np.bincount(flat, minlength=classes)
        sums = np.bincount(flat, self.confidence.ravel(), minlength=classes)
        return {c.name: float(s / n) for c, n, s in zip(self.names.classes, counts, sums) if n}

    def colours(self) -> NDArray[np.uint8]:
        """The classes painted, uint8 (H, W, 3)."""
        painted: NDArray[np.uint8] = np.array([c.colour for c in self.names.classes], np.uint8)[self.labels]
        return painted

    def overlay(self, opacity: float = 0.55) -> Image.Image:
        """The colours over the image; raises ValueError where the image was not kept."""
        if self.image is None:
            raise ValueError("the segmentation was made without keeping its image")
        return Image.blend(Image.fromarray(self.image), Image.fromarray(self.colours()), opacity)

    def index_image(self) -> Image.Image:
        """The labels as an image whose palette has the classes' colours: 8 bits, or 16 without a palette."""
        if len(self.names.classes) > 256:
            return Image.fromarray(self.labels.astype(np.uint16))
        image = Image.fromarray(self.labels.astype(np.uint8))
        image.putpalette([level for c in self.names.classes for level in c.colour])
        return image

    def renamed(self, names: Names) -> Segmentation:
        """The same under other names."""
        return replace(self, names=names)

    def _probability_bands(self, *, cosines: bool) -> Iterator[Tensor]:
        """Bands (classes, b, W) of probabilities; with `cosines`, clusters have their cosine, a class its largest."""
        lengths = None if self.lengths is None else self._bands(self.lengths[None], like=len(self.scores))
        for band in self._bands(self.scores):
            if lengths is not None:
                band = band / next(lengths).clamp(min=1e-12)
            if lengths is None or not cosines:
                band = (band if lengths is None else SHARPNESS * band).softmax(0)
            yield self._by_class(band, largest=cosines and lengths is not None)

    def _by_class(self, band: Tensor, *, largest: bool) -> Tensor:
        if not self.names.merged:
            return band
        index = torch.tensor(self.names.of_cluster)[:, None, None].expand_as(band)
        empty = band.new_full((len(self.names.classes), *band.shape[1:]), -1.0 if largest else 0.0)
        return empty.scatter_reduce(0, index, band, "amax" if largest else "sum")

    def _bands(self, maps: Tensor, like: int | None = None) -> Iterator[Tensor]:
        """Maps (C, h, w) resized to bands (C, b, W) of the image's rows; bands of `like` maps where it is given."""
        height, width = self.size
        rows, columns = _places(height, self.extent[0], maps.shape[1]), _places(width, self.extent[1], maps.shape[2])
        step = max(1, BAND // ((like or len(maps)) * width))
        for first in range(0, height, step):
            some = tuple(part[first : first + step] for part in rows)
            yield _mixed(_mixed(maps, some, 1), columns, 2)


def _places(length: int, extent: float, grid: int) -> tuple[Tensor, ...]:
    """For each of `length` pixels that cover `extent` positions of a grid: the positions beside it, and the second's
    weight, as bilinear resizing with align_corners=False has it."""
    at = ((torch.arange(length, dtype=torch.float64) + 0.5) * (extent / length) - 0.5).clamp(0, grid - 1)
    first = at.floor().long().clamp(max=max(0, grid - 2))
    second = (first + 1).clamp(max=grid - 1)
    return first, second, (at - first).float()


def _mixed(maps: Tensor, places: tuple[Tensor, ...], dim: int) -> Tensor:
    first, second, weight = places
    weight = weight[:, None] if dim == 1 else weight
    return torch.lerp(maps.index_select(dim, first), maps.index_select(dim, second), weight)
