"""Joins anchors, neighbours, labels and features into batches; online or from the bank, one interface.

A rank's batch holds the slots of its groups, in order. Anchors come from the stream (online) or from the same order's
ids (bank); the neighbour of each is drawn from the table by (seed, step, group), so both feeds give the same samples.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from stego_dist.data.order import BatchIds, Order
from stego_dist.data.samples import ShardSamples, decode_label
from stego_dist.data.sources import open_image
from stego_dist.data.stream import RawSample, stream_lane
from stego_dist.data.transforms import Resize, label_view, to_training_view
from stego_dist.errors import UserError
from stego_dist.features.bank import Bank
from stego_dist.knn.table import KnnTable
from stego_dist.losses.draws import draw_neighbour_ranks

Ids = NDArray[np.int64]


@dataclass(frozen=True)
class Batch:
    """A rank's share of a step: n anchors with a neighbour each."""

    ids: Tensor
    """int64 (n,)"""
    neighbour_ids: Tensor
    """int64 (n,)"""
    anchors: Tensor
    """uint8 images (n, 3, R, R) online; float16 features (n, C, h, w) from the bank."""
    neighbours: Tensor
    """The same of the neighbours."""
    labels: Tensor | None
    """uint8 (n, R, R) of the anchors, 255 ignored; None without labels."""

    def to(self, device: torch.device) -> Self:
        """The same on a device."""
        return type(self)(*(None if t is None else t.to(device, non_blocking=True) for t in self.columns()))  # type: ignore[arg-type]

    def pinned(self) -> Self:
        """The same, with what is in host memory pinned, so that it can be copied while a GPU computes."""
        return type(self)(*(t if t is None or t.is_cuda else t.pin_memory() for t in self.columns()))  # type: ignore[arg-type]

    def columns(self) -> tuple[Tensor | None, ...]:
        """The fields in order."""
        return self.ids, self.neighbour_ids, self.anchors, self.neighbours, self.labels


@dataclass(frozen=True)
class NeighbourDraw:
    """Draws the neighbour of each anchor uniformly from ranks 1 to `positives`."""

    table: KnnTable
    seed: int
    group_size: int
    positives: int

    def __call__(self, step: int, slots: range, ids: Ids) -> Ids:
        """Ids of the neighbours of `ids`, the anchors of `slots` of the global batch.

        A sample without any neighbour is its own.
        """
        groups = range(slots.start // self.group_size, -(-slots.stop // self.group_size))
        inside = slice(slots.start - groups.start * self.group_size, slots.stop - groups.start * self.group_size)
        rows = self.table.rows(ids)[:, : self.positives + 1]
        usable = torch.from_numpy((rows[:, 1:] >= 0).sum(1))
        highest = torch.ones(len(groups) * self.group_size, dtype=torch.int64)
        highest[inside] = usable.clamp(min=1)
        ranks = draw_neighbour_ranks(seed=self.seed, step=step, groups=groups, size=self.group_size, highest=highest)[
            inside
        ]
        chosen: Ids = rows[np.arange(len(ids)), torch.minimum(ranks, usable).numpy()]
        return chosen


class Feed(Protocol):
    """Gives batches from a step on."""

    def batches(self, first_step: int) -> Generator[Batch]: ...


class BankFeed:
    """Features and labels from the bank; no image is decoded."""

    def __init__(self, bank: Bank, order: Order, slots: range, draw: NeighbourDraw) -> None:
        self.bank, self.slots, self.draw = bank, slots, draw
        self.ids = BatchIds(order, slots)

    def batches(self, first_step: int) -> Generator[Batch]:
        """Batches of steps first_step, first_step + 1, … without end."""
        step = first_step
        while True:
            ids = self.ids(step)
            neighbours = self.draw(step, self.slots, ids)
            yield Batch(
                torch.from_numpy(ids),
                torch.from_numpy(neighbours),
                self.bank.features(ids),
                self.bank.features(neighbours),
                self.bank.labels(ids) if self.bank.labelled else None,
            )
            step += 1


class OnlineFeed:
    """Anchors streamed from shards, neighbours read by offset, both decoded in worker processes."""

    def __init__(
        self,
        samples: ShardSamples,
        order: Order,
        slots: range,
        draw: NeighbourDraw,
        *,
        resolution: int,
        resize: Resize,
        workers: int,
    ) -> None:
        self.arguments: dict[str, Any] = {
            "samples": samples, "order": order, "slots": slots, "draw": draw, "resolution": resolution, "resize": resize
        }  # fmt: skip
        self.workers = min(workers, len(slots))

    def batches(self, first_step: int) -> Generator[Batch]:
        """Batches of steps first_step, first_step + 1, … without end; worker counts don't change them."""
        loader = DataLoader(
            _LaneShare(first_step=first_step, **self.arguments),
            batch_size=None,
            num_workers=self.workers,
            prefetch_factor=2 if self.workers else None,
            pin_memory=torch.cuda.is_available(),
        )
        shares = iter(loader)
        while True:
            parts = [next(shares) for _ in range(max(1, self.workers))]
            for part in parts:
                if isinstance(part, UserError):
                    raise part
            yield Batch(*(None if column[0] is None else torch.cat(column) for column in zip(*parts)))  # type: ignore[arg-type]


class _LaneShare(IterableDataset[tuple[Tensor | None, ...] | UserError]):
    """A worker's consecutive slots of every batch, as a tuple of Batch's fields.

    An error of the user's ends it as a value: raised in a worker, it would come back with a traceback in its message.
    """

    def __init__(
        self, *, samples: ShardSamples, order: Order, slots: range, draw: NeighbourDraw, resolution: int,
        resize: Resize, first_step: int,
    ) -> None:  # fmt: skip
        self.samples, self.order, self.slots, self.draw = samples, order, slots, draw
        self.resolution, self.resize, self.first_step = resolution, resize, first_step

    def __iter__(self) -> Iterator[tuple[Tensor | None, ...] | UserError]:
        try:
            yield from self._shares()
        except UserError as error:
            yield error

    def _shares(self) -> Iterator[tuple[Tensor | None, ...]]:
        info = get_worker_info()
        number, workers = (info.id, info.num_workers) if info else (0, 1)
        cut = [self.slots.start + len(self.slots) * i // workers for i in (number, number + 1)]
        slots = range(*cut)
        lanes = [stream_lane(self.samples, self.order, lane, self.first_step) for lane in slots]
        step = self.first_step
        while True:
            anchors = [next(lane) for lane in lanes]
            ids = np.array([anchor.id for anchor in anchors])
            neighbours = self.draw(step, slots, ids)
            views = [self._decode(anchor) for anchor in anchors]
            labels = [label for _, label in views if label is not None]
            others = [
                self._image(data, i) for i, data in zip(neighbours.tolist(), self.samples.images(neighbours.tolist()))
            ]
            yield (
                torch.from_numpy(ids),
                torch.from_numpy(neighbours),
                torch.stack([image for image, _ in views]),
                torch.stack(others),
                torch.stack(labels) if labels else None,
            )
            step += 1

    def _decode(self, sample: RawSample) -> tuple[Tensor, Tensor | None]:
        image = self._image(sample.image, sample.id)
        if sample.label is None:
            return image, None
        label = decode_label(sample.label, self.samples.describe(sample.id, ".label.png"))
        return image, label_view(label, self.resolution)

    def _image(self, data: bytes, i: int) -> Tensor:
        return to_training_view(open_image(data, self.samples.describe(i, ".jpg")), self.resolution, self.resize)
