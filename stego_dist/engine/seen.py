"""Where evaluation and validation have features from: the backbone, or what was kept. The one place that reads either.

In: images of the evaluated split, by number. Out: batches of features of them and, where they are wanted, of their
mirror images, with labels and images at the evaluation's size.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from stego_dist.config import Config
from stego_dist.data.samples import ShardSamples
from stego_dist.data.transforms import Crop
from stego_dist.engine.inputs import open_views, training_precision
from stego_dist.engine.opened import Opened
from stego_dist.engine.views import evaluation_views
from stego_dist.features.views import Views
from stego_dist.models.backbone import Backbone


@dataclass(frozen=True)
class Seen:
    """A batch of B images of one size (H, W)."""

    ids: list[int]
    feats: Tensor
    """(B or 2B, C, h, w) on the device: of the images, then of their mirror images."""
    labels: Tensor | None
    """uint8 (B, H, W), 255 ignored, on the host."""
    images: dict[int, Tensor]
    """uint8 (3, H, W) on the host, by number: those that were asked for."""
    size: tuple[int, int]
    padded: tuple[int, int]
    """Size that the features belong to, of which (H, W) is the upper left part."""

    def stacked(self) -> Tensor:
        """The images (B, 3, H, W), where all were asked for."""
        return torch.stack([self.images[i] for i in self.ids])


class EvaluationFeatures:
    """Features of images of the evaluated split at a resolution (eval.resolution), cut by `crop`.

    opened: what is open already. Raises UserError with eval.features=bank where they were not kept, StaleInputError
    where they are another input's.
    """

    def __init__(
        self,
        config: Config,
        samples: ShardSamples,
        backbone: Backbone,
        device: torch.device,
        resolution: int | None = None,
        crop: Crop = "centre",
        opened: Opened | None = None,
    ) -> None:
        self.config, self.samples, self.backbone, self.device = config, samples, backbone, device
        self.resolution, self.crop = resolution or config.eval.resolution, crop
        views = Views(config.data.eval_split, self.resolution, ("straight", "mirrored"))
        if crop == "none":
            self.store = None
        elif opened is not None:
            self.store = opened.views(views)
        else:
            self.store = open_views(config, samples.shard_set, backbone, views)

    def batches(self, ids: Sequence[int], *, mirrored: bool, images: Collection[int] = ()) -> Iterator[Seen]:
        """These images in batches of at most eval.batch_size; `images`: those that are themselves wanted.

        From the backbone each comes in the order in which its batch fills, from the store in that of `ids`. Raises
        UserError for unreadable samples.
        """
        return self._computed(ids, mirrored, images) if self.store is None else self._kept(ids, mirrored, images)

    def _kept(self, ids: Sequence[int], mirrored: bool, images: Collection[int]) -> Iterator[Seen]:
        assert self.store is not None
        side, step = self.resolution, self.config.eval.batch_size
        for first in range(0, len(ids), step):
            some = np.asarray(ids[first : first + step], np.int64)
            feats = self.store.features(some, ("straight", "mirrored") if mirrored else ("straight",))
            wanted = [i for i in some.tolist() if i in images]
            pictures = (self.samples.image_view(i, side, self.config.data.image_resize) for i in wanted)
            yield Seen(
                some.tolist(),
                feats.to(self.device).float(),
                self.store.labels(some) if self.store.labelled else None,
                dict(zip(wanted, pictures)),
                (side, side),
                (side, side),
            )

    def _computed(self, ids: Sequence[int], mirrored: bool, images: Collection[int]) -> Iterator[Seen]:
        for some, pictures, labels in evaluation_views(self.config, self.samples, ids, self.resolution, self.crop):
            x = pictures.to(self.device)
            if self.crop == "none":
                x = pad_to_multiple(x, self.backbone.stride)
            with training_precision(self.config, self.device):
                feats = self.backbone(torch.cat([x, x.flip(-1)]) if mirrored else x)
            wanted = {i: picture for i, picture in zip(some, pictures) if i in images}
            yield Seen(some, feats, labels, wanted, (pictures.shape[2], pictures.shape[3]), (x.shape[2], x.shape[3]))


def pad_to_multiple(images: Tensor, stride: int) -> Tensor:
    """Images (B, 3, H, W) with their last row and column repeated until both sides are multiples of `stride`."""
    for dim in (2, 3):
        size = images.shape[dim]
        places = torch.arange(size + -size % stride, device=images.device).clamp(max=size - 1)
        images = images.index_select(dim, places)
    return images
