"""Windows of images on their way through the network: those of one size go together, whichever image they are of.

In: numbered rasters. Out: their segmentations, in the order in which they are finished.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from stego_dist.engine.inputs import autocast
from stego_dist.engine.predict import LINEAR
from stego_dist.errors import UserError
from stego_dist.inference.rasters import Raster
from stego_dist.inference.segmentation import Segmentation
from stego_dist.inference.windows import Blend, Window, cover

if TYPE_CHECKING:
    from stego_dist.inference.model import Model

PATIENCE = 4
"""Batches' worth of windows that wait at most, and of later images that one waits for."""
HELD = 1 << 30
"""Bytes of the images that wait, above which what there is goes through the network."""

Finished = tuple[int, Raster, Segmentation]
Failed = Callable[[int, UserError], None]


class _Waiting:
    """An image some of whose windows have not been through the network."""

    def __init__(self, number: int, raster: Raster, model: Model, turn: int) -> None:
        self.number, self.raster, self.model, self.turn = number, raster, model, turn
        self.seen = model.seen_size(raster.size)
        self.scaled = raster.scaled(*self.seen, model.resize)
        self.grid = -(-self.seen[0] // model.stride), -(-self.seen[1] // model.stride)
        self.windows = cover(self.grid[0], self.grid[1], model.side, model.overlap)
        self.scores: Blend | None = None
        self.failed = False

    @property
    def held(self) -> int:
        return self.raster.held + (self.scaled.held if self.scaled is not self.raster else 0)

    def pixels(self, window: Window) -> Tensor:
        stride = self.model.stride
        return self.scaled.region(
            window.top * stride, window.left * stride, window.height * stride, window.width * stride
        )

    def add(self, number: int, values: Tensor) -> None:
        """Scores and, in the last channel, lengths of a window."""
        self.scores = self.scores or Blend(len(values), *self.grid, self.windows, self.model.overlap)
        self.scores.add(number, values)

    def segmentation(self) -> Segmentation:
        assert self.scores is not None
        values = self.scores.result()
        linear = self.model.scorer.readout == LINEAR
        extent = (self.seen[0] / self.model.stride, self.seen[1] / self.model.stride)
        lengths = None if linear else values[-1]
        return Segmentation(values[:-1], lengths, self.raster.size, extent, self.model.names)


class WindowQueue:
    """Windows that wait for others of their size.

    No more than PATIENCE batches of them wait, none for more than as many later images, and images that take more than
    HELD bytes don't. `failed` is told of images that can't be read or seen; without it they raise UserError.
    """

    def __init__(self, model: Model, batch_size: int, failed: Failed | None = None) -> None:
        self.model, self.batch_size, self.failed = model, batch_size, failed
        self.waiting: dict[tuple[int, int], list[tuple[_Waiting, int]]] = {}
        self.turn = 0

    def add(self, number: int, raster: Raster) -> Iterator[Finished]:
        """Take an image; give what is finished by that."""
        self.turn += 1
        try:
            image = _Waiting(number, raster, self.model, self.turn)
        except UserError as error:
            self._fail(number, error)
            return
        for place, window in enumerate(image.windows):
            same = self.waiting.setdefault((window.height, window.width), [])
            same.append((image, place))
            if len(same) == self.batch_size:
                yield from self._run((window.height, window.width))
        while self.waiting and self._impatient():
            # the group of the image that has waited longest
            yield from self._run(min(self.waiting, key=lambda size: self.waiting[size][0][0].turn))

    def flush(self) -> Iterator[Finished]:
        """What is left."""
        for size in list(self.waiting):
            yield from self._run(size)

    def _impatient(self) -> bool:
        images = {id(image): image for group in self.waiting.values() for image, _ in group}.values()
        most = PATIENCE * self.batch_size
        return (
            sum(map(len, self.waiting.values())) > most
            or min(image.turn for image in images) < self.turn - most
            or sum(image.held for image in images) > HELD
        )

    def _run(self, size: tuple[int, int]) -> Iterator[Finished]:
        some, parts = [], []
        for image, place in self.waiting.pop(size, []):
            if image.failed:
                continue
            try:
                parts.append(image.pixels(image.windows[place]))
            except UserError as error:
                image.failed = True
                self._fail(image.number, error)
            else:
                some.append((image, place))
        if not some:
            return
        with autocast(self.model.precision, self.model.device):
            scores, lengths = self.model.scorer(torch.stack(parts).to(self.model.device))
        values = torch.cat([scores, lengths[:, None]], 1).float().cpu()
        for (image, place), value in zip(some, values):
            if image.failed:
                continue
            image.add(place, value)
            if image.scores is not None and image.scores.done:
                yield image.number, image.raster, image.segmentation()

    def _fail(self, number: int, error: UserError) -> None:
        if self.failed is None:
            raise error
        self.failed(number, error)
