"""The images and labels of an evaluation, read in worker processes, in batches of one size.

A centre crop gives all images the same size; without one, images are collected by size, a bounded number at a time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from stego_dist.config import Config
from stego_dist.data.samples import ShardSamples
from stego_dist.data.transforms import Crop, Resize
from stego_dist.errors import UserError

View = tuple[int, Tensor, Tensor | None]
Batch = tuple[list[int], Tensor, Tensor | None]
HELD = 8
"""Batches' worth of images of different sizes that wait for others of their size."""


class _Views(Dataset[View | UserError]):
    """Images and labels at the evaluation's size. An error of the user's comes as a value (see engine/feed.py)."""

    def __init__(self, samples: ShardSamples, ids: Sequence[int], resolution: int, resize: Resize, crop: Crop) -> None:
        self.samples, self.ids, self.resolution, self.resize, self.crop = samples, ids, resolution, resize, crop

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, place: int) -> View | UserError:
        return self.__getitems__([place])[0]

    def __getitems__(self, places: list[int]) -> list[View | UserError]:
        """What the loader asks for: a batch at a time."""
        ids = [self.ids[place] for place in places]
        try:
            views = self.samples.views(ids, self.resolution, self.resize, self.crop)
            return [(i, *view) for i, view in zip(ids, views)]
        except UserError as error:
            return [error]


def evaluation_views(
    config: Config, samples: ShardSamples, ids: Sequence[int], resolution: int | None = None, crop: Crop = "centre"
) -> Iterator[Batch]:
    """Ids, uint8 images (B, 3, H, W) and uint8 labels (B, H, W) of `ids` in batches, at the evaluation's size.

    resolution: of the shorter side, eval.resolution by default; with the crop "centre" H and W are that too. Read in
    worker processes. Raises UserError for unreadable samples.
    """
    size = config.eval.batch_size
    views = _Views(samples, ids, resolution or config.eval.resolution, config.data.image_resize, crop)
    return batches_by_size(DataLoader(views, size, num_workers=config.data.workers, collate_fn=list), size)


def batches_by_size(loaded: Iterable[list[View | UserError]], size: int) -> Iterator[Batch]:
    """Batches of at most `size` views whose images have one size. At most HELD · size views wait."""
    waiting: dict[torch.Size, list[View]] = {}
    for items in loaded:
        for item in items:
            if isinstance(item, UserError):
                raise item
            same = waiting.setdefault(item[1].shape, [])
            same.append(item)
            if len(same) == size:
                yield _batch(waiting.pop(item[1].shape))
        while sum(map(len, waiting.values())) > HELD * size:
            yield _batch(waiting.pop(max(waiting, key=lambda shape: len(waiting[shape]))))
    for views in waiting.values():
        yield _batch(views)


def _batch(views: list[View]) -> Batch:
    labels = [label for _, _, label in views if label is not None]
    return (
        [i for i, _, _ in views],
        torch.stack([image for _, image, _ in views]),
        torch.stack(labels) if labels else None,
    )
