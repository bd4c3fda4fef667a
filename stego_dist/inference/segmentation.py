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
ROWS = 16
"""Rows of a band are a multiple of it, so that bands fill the strips of a file."""


@dataclass(frozen=True)
class Band:
    """Some rows of a segmentation, from row `first` on."""

    first: int
    labels: NDArray[np.int16]
    """Classes (b, W)."""
    confidence: NDArray[np.float32]
    """By how much the winner leads, (b, W); see `Segmentation.confidence`."""


class Tally:
    """Pixels and confidence by class, of bands."""

    def __init__(self, names: Names) -> None:
        self.names = names
        self.counts = np.zeros(len(names.classes), np.int64)
        self.sums = np.zeros(len(names.classes), np.float64)

    def add(self, band: Band) -> None:
        """Count a band."""
        flat, classes = band.labels.ravel(), len(self.counts)
        self.counts += np.bincount(flat, minlength=classes)
        self.sums += np.bincount(flat, band.confidence.ravel(), minlength=classes)

    def shares(self) -> dict[str, float]:
        """Share of all pixels by the name of the class, without classes that have none."""
        return self._named(self.counts / max(1, self.counts.sum()))

    def confidences(self) -> dict[str, float]:
        """Mean confidence over the pixels of each class that has any."""
        return self._named(self.sums / self.counts.clip(min=1))

    def _named(self, values: NDArray[np.float64]) -> dict[str, float]:
        return {c.name: float(v) for c, v, n in zip(self.names.classes, values, self.counts) if n}


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
    """Winning clusters after a CRF, in place of those of the scores: of the image's size, or of the one at which the
    CRF looked, and then the nearest counts."""

    @cached_property
    def clusters(self) -> NDArray[np.int16]:
        """Winning cluster (or class of a linear probe) of every pixel, int16 (H, W)."""
        return np.concatenate([self._winners(first, scores) for first, scores, _ in self._bands()])

    @cached_property
    def labels(self) -> NDArray[np.int16]:
        """Class of every pixel, int16 (H, W): an index into `names.classes`."""
        found: NDArray[np.int16] = np.array(self.names.of_cluster, np.int16)[self.clusters]
        return found

    @cached_property
    def confidence(self) -> NDArray[np.float32]:
        """By how much the winner leads, float32 (H, W) in [0, 1]: the difference of the two largest cosines, or of the
        two largest probabilities of a linear probe. Clusters of one class do not compete. It is that of the scores,
        whatever a CRF made of them."""
        return np.concatenate([self._lead(cosines) for _, _, cosines in self._bands()])

    @cached_property
    def probabilities(self) -> NDArray[np.float32]:
        """Probabilities of classes, float32 (classes, H, W), all in memory.

        The softmax of a linear probe's logits, or of 2·cosine as the published code has it for its CRF, which is flat.
        A class has the sum of its clusters. What a CRF refined does not show in them.
        """
        return np.concatenate([self._probabilities(cosines).numpy() for _, _, cosines in self._bands()], 1)

    @property
    def grid_probabilities(self) -> NDArray[np.float32]:
        """The same on the network's grid, float32 (classes, h, w), of which the image takes `extent`."""
        scores = self.scores if self.lengths is None else self.scores / self.lengths.clamp(min=1e-12)
        found: NDArray[np.float32] = self._probabilities(scores).numpy()
        return found

    def log_probabilities(self, height: int, width: int) -> Tensor:
        """Log-probabilities of clusters at a size, float32 (K, height, width): what a CRF starts from."""
        bands = replace(self, size=(height, width), refined=None)._bands()
        return torch.cat([self._logits(cosines).log_softmax(0) for _, _, cosines in bands], 1)

    def bands(self) -> Iterator[Band]:
        """Labels and confidence in bands of rows, of which only one is in memory."""
        table = np.array(self.names.of_cluster, np.int16)
        for first, scores, cosines in self._bands():
            yield Band(first, table[self._winners(first, scores)], self._lead(cosines))

    @cached_property
    def tally(self) -> Tally:
        """Shares and confidence by class."""
        tally = Tally(self.names)
        for band in self.bands():
            tally.add(band)
        return tally

    def shares(self) -> dict[str, float]:
        """Share of the image's pixels, by the name of the class; classes that it has not are left out."""
        return self.tally.shares()

    def confidences(self) -> dict[str, float]:
        """Mean confidence over the pixels of each class that the image has."""
        return self.tally.confidences()

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
        return index_picture(self.labels, self.names)

    def renamed(self, names: Names) -> Segmentation:
        """The same under other names."""
        return replace(self, names=names)

    def _winners(self, first: int, scores: Tensor) -> NDArray[np.int16]:
        """Winning clusters (b, W) of a band."""
        if self.refined is None:
            found: NDArray[np.int16] = scores.max(0).indices.to(torch.int16).numpy()  # argmax is many times slower
            return found
        (height, width), rows = self.size, np.arange(first, first + scores.shape[1])
        down, across = nearest(rows, height, len(self.refined)), nearest(np.arange(width), width, self.refined.shape[1])
        return self.refined[down][:, across]

    def _lead(self, cosines: Tensor) -> NDArray[np.float32]:
        """By how much the first class is ahead of the second, (b, W)."""
        linear = self.lengths is None
        classes = self._by_class(cosines.softmax(0) if linear else cosines, largest=not linear)
        best, second = classes[0].clone(), torch.full_like(classes[0], -torch.inf)
        for other in classes[1:]:  # topk takes several times as long
            torch.maximum(second, torch.minimum(best, other), out=second)
            torch.maximum(best, other, out=best)
        found: NDArray[np.float32] = (best - second).clamp(0, 1).numpy()
        return found

    def _logits(self, cosines: Tensor) -> Tensor:
        return cosines if self.lengths is None else SHARPNESS * cosines

    def _probabilities(self, cosines: Tensor) -> Tensor:
        return self._by_class(self._logits(cosines).softmax(0), largest=False)

    def _by_class(self, band: Tensor, *, largest: bool) -> Tensor:
        """The largest, or the sum, of the clusters of each class."""
        if not self.names.merged:
            return band
        index = torch.tensor(self.names.of_cluster)[:, None, None].expand_as(band)
        empty = band.new_full((len(self.names.classes), *band.shape[1:]), -1.0 if largest else 0.0)
        return empty.scatter_reduce(0, index, band, "amax" if largest else "sum")

    def _bands(self) -> Iterator[tuple[int, Tensor, Tensor]]:
        """First row, scores (K, b, W) and cosines (or logits, as the scores are) of bands of rows."""
        height, width = self.size
        rows, columns = (
            _places(length, extent, grid) for length, extent, grid in zip(self.size, self.extent, self.scores.shape[1:])
        )
        step = max(ROWS, BAND // (len(self.scores) * width) // ROWS * ROWS)
        for first in range(0, height, step):
            some = tuple(part[first : first + step] for part in rows)
            scores = _mixed(_mixed(self.scores, some, 1), columns, 2)
            if self.lengths is None:
                yield first, scores, scores
            else:
                lengths = _mixed(_mixed(self.lengths[None], some, 1), columns, 2)
                yield first, scores, scores / lengths.clamp(min=1e-12)


def index_picture(labels: NDArray[np.integer], names: Names) -> Image.Image:
    """Class ids (H, W) as an image with the classes' colours as palette: 8 bits, or 16 without a palette."""
    if len(names.classes) > 256:
        return Image.fromarray(labels.astype(np.uint16))
    image = Image.fromarray(labels.astype(np.uint8, copy=False))
    image.putpalette([level for c in names.classes for level in c.colour])
    return image


def nearest(places: NDArray[np.int64], length: int, other: int) -> NDArray[np.int64]:
    """The pixels of a row of `other` that are nearest to `places` of one of `length`."""
    found: NDArray[np.int64] = ((2 * places + 1) * other // (2 * length)).clip(0, other - 1)
    return found


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
