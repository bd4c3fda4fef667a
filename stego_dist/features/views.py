"""The view store: dense features of images of a split, each seen in several ways; what evaluation and scores read.

A folder with, for each shard s of the split that holds any of the images, numpy files that are read by memory map:

    s.ids.npy        int64   (n,)           numbers of the images in the split, ascending
    s.straight.npy   float16 (n, C, h, w)   features of the image, its shorter side resized, the centre square cut out
    s.mirrored.npy   float16 (n, C, h, w)   of its mirror image
    s.zoomed.npy     float16 (n, C, h, w)   of the middle ZOOM-th of it, enlarged to the same size
    s.labels.npy     uint8   (n, R, R)      labels of the square, 255 ignored (where the split has labels)

and done-markers and a manifest as the feature store has them. Of the views those that were asked for are there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from stego_dist.errors import UserError
from stego_dist.features.embed import Recipe, View, decoded
from stego_dist.shardarrays import ShardArrays, declare_complete

FORMAT = "stego_dist.views/1"
REMEDY = "Compute it again with: stego-dist features CONFIG --overwrite"
ZOOM = 0.75
"""Share of the side that a zoomed view shows."""
Kind = Literal["straight", "mirrored", "zoomed"]
Ids = NDArray[np.int64]


@dataclass(frozen=True)
class Views:
    """Which images of a split are kept, and how they are seen."""

    split: str
    resolution: int
    """Side of the square, in pixels."""
    kinds: tuple[Kind, ...]
    images: int | None = None
    """How many, evenly spread over the split; None: all."""

    @property
    def name(self) -> str:
        """Of the folder below `views/`."""
        return f"{self.split}-{self.resolution}" + ("" if self.images is None else f"-{self.images}")

    def ids(self, count: int) -> Ids:
        """Which of `count` images, ascending."""
        wanted = count if self.images is None else min(self.images, count)
        found: Ids = np.unique(np.linspace(0, count - 1, wanted).round().astype(np.int64))
        return found


def zoomed_share(side: int) -> float:
    """Share of the side that a zoomed view of a square of `side` pixels shows, in whole pixels."""
    return max(1, round(side * ZOOM)) / side


def seen(images: Tensor, kind: Kind) -> Tensor:
    """uint8 images (B, 3, R, R) in another way: uint8, or float32 in 0…255 where they are enlarged."""
    if kind == "straight":
        return images
    if kind == "mirrored":
        return images.flip(-1)
    side = images.shape[-1]
    shown = round(side * zoomed_share(side))
    first = (side - shown) // 2
    middle = images[..., first : first + shown, first : first + shown].float()
    return F.interpolate(middle, (side, side), mode="bilinear", align_corners=False)


def embed_views(
    recipe: Recipe,
    ids: Sequence[int],
    kinds: Sequence[Kind],
    *,
    view: Callable[[int], View],
    backbone: Callable[[Tensor], Tensor],
    device: torch.device,
    describe: Callable[[int], str],
) -> Iterator[dict[str, NDArray[Any] | None]]:
    """The store's arrays of these images by kind, batch by batch; the arguments are those of `embed_samples`.

    Raises UserError naming the image: features that are not finite in float16, and whatever `view` raises.
    """
    for some, views in decoded(recipe, ids, view):
        images = torch.stack([image for image, _ in views]).to(device)
        labels = [label for _, label in views if label is not None]
        found: dict[str, NDArray[Any] | None] = {
            "ids": np.array(some, np.int64),
            "labels": torch.stack(labels).numpy() if labels else None,
        }
        for kind in kinds:
            with torch.no_grad(), torch.autocast(device.type, recipe.autocast, enabled=recipe.autocast is not None):
                feats = backbone(seen(images, kind)).half()
            finite = feats.isfinite().flatten(1).all(1)
            if not finite.all():
                raise UserError(
                    f"{describe(some[int(finite.int().argmin())])}: the backbone's features are not finite in float16; "
                    "look at the image and at backbone.weights, try features.precision=fp32, and eval.features=online "
                    "keeps none"
                )
            found[kind] = feats.cpu().numpy()
        yield found


def write_manifest(root: Path, shards: list[str], fingerprint: Mapping[str, Any], **more: Any) -> None:
    """Declare the store complete."""
    declare_complete(root, shards, FORMAT, fingerprint, REMEDY, **more)


class ViewStore(ShardArrays):
    """Reads a complete store by memory map; what is refused, and how, is ShardArrays'."""

    def __init__(self, root: Path, fingerprint: Mapping[str, Any], remedy: str = REMEDY) -> None:
        super().__init__(root, fingerprint, remedy, what="the view store", format=FORMAT)
        self.ids: Ids = np.concatenate([self.array("ids", shard) for shard in range(len(self.shards))])
        """(n,) the images, ascending."""

    @property
    def labelled(self) -> bool:
        """Whether there are labels."""
        return "labels" in self.kinds

    def features(self, ids: Ids, kinds: Sequence[Kind]) -> Tensor:
        """Dense features (V·n, C, h, w), float16: of all images in the first way, then in the next."""
        places = self._places(ids)
        return torch.from_numpy(np.concatenate([self.gather(kind, places) for kind in kinds]))

    def labels(self, ids: Ids) -> Tensor:
        """Labels (n, R, R), uint8, 255 ignored."""
        return torch.from_numpy(self.gather("labels", self._places(ids)))

    def _places(self, ids: Ids) -> Ids:
        """Rows of images. Raises KeyError for one that is not kept."""
        places: Ids = np.searchsorted(self.ids, ids)
        missing = np.asarray(ids)[self.ids[np.minimum(places, len(self.ids) - 1)] != ids]
        if len(missing):
            raise KeyError(f"{self.root} does not hold image {missing[0]}")
        return places
