"""Features of some samples, batch by batch: what a worker of the embed job computes.

In: how a sample is read, and the frozen backbone. Out: batches as they are stored, in the order of the samples.

1. Threads decode up to two batches ahead, while the backbone works.
2. On a GPU images come from pinned memory, and features return to it by copies that block nobody.
3. A batch is handed over when the next one is under way, so writing costs the device nothing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stego_dist.errors import UserError
from stego_dist.features.descriptors import DescriptorType, storable_descriptors
from stego_dist.features.store import ShardFeatures
from stego_dist.models.backbone import descriptors

View = tuple[Tensor, Tensor | None]


@dataclass(frozen=True)
class Recipe:
    """What is computed, and how."""

    batch_size: int
    """Samples of a forward."""
    autocast: torch.dtype | None
    """Of the backbone; None: float32."""
    descriptors: DescriptorType
    """As which they are stored."""
    bank: bool
    """Whether dense features are kept, and labels where there are any."""
    threads: int
    """That read and decode."""


def embed_samples(
    recipe: Recipe,
    samples: range,
    *,
    view: Callable[[int], View],
    sources: NDArray[np.int64],
    backbone: Callable[[Tensor], Tensor],
    device: torch.device,
    describe: Callable[[int], str],
) -> Iterator[ShardFeatures]:
    """Batches of features.

    Args:
        view: image uint8 (3, R, R) of a sample, and label uint8 (R, R) or None.
        sources: (N,) source image of every sample.
        backbone: uint8 images (B, 3, R, R) on the device → features (B, C, h, w).
        describe: how errors name a sample.

    Raises UserError naming the sample: features that are not finite, and whatever `view` raises.
    """
    running: deque[_Batch] = deque()
    for ids, views in decoded(recipe, samples, view):
        running.append(_start(recipe, ids, views, backbone, device))
        if len(running) > 1:
            yield running.popleft().fetch(recipe, sources, describe)
    while running:
        yield running.popleft().fetch(recipe, sources, describe)


def decoded(
    recipe: Recipe, samples: Sequence[int], view: Callable[[int], View]
) -> Iterator[tuple[Sequence[int], list[View]]]:
    """Batches of views; the two that come next are read meanwhile."""
    batches = [samples[first : first + recipe.batch_size] for first in range(0, len(samples), recipe.batch_size)]
    pool = ThreadPoolExecutor(recipe.threads, "decode")
    ahead: deque[list[Future[View]]] = deque()
    try:
        for number, ids in enumerate(batches):
            for more in batches[number + len(ahead) : number + 3]:
                ahead.append([pool.submit(view, i) for i in more])
            yield ids, [future.result() for future in ahead.popleft()]
    finally:
        pool.shutdown(cancel_futures=True)


@dataclass(frozen=True)
class _Batch:
    """Features that are being computed and copied to the host."""

    ids: Sequence[int]
    pooled: Tensor
    dense: Tensor | None
    labels: Sequence[Tensor]
    copied: torch.cuda.Event | None

    def fetch(self, recipe: Recipe, sources: NDArray[np.int64], describe: Callable[[int], str]) -> ShardFeatures:
        """Wait for them, and look whether they are finite."""
        if self.copied is not None:
            self.copied.synchronize()
        finite = self.pooled.isfinite().all(1)
        if self.dense is not None:
            finite &= self.dense.flatten(1).isfinite().all(1)
        if not finite.all():
            sample = describe(self.ids[int(finite.int().argmin())])
            what = "not finite" if self.dense is None else "not finite in float16, which the bank keeps"
            raise UserError(
                f"{sample}: the backbone's features are {what}; look at the image and at backbone.weights, and try "
                "features.precision=fp32"
            )
        return ShardFeatures(
            descriptors=storable_descriptors(self.pooled.numpy(), recipe.descriptors),
            source=sources[list(self.ids)],
            bank=None if self.dense is None else self.dense.numpy(),
            labels=np.stack([label.numpy() for label in self.labels]) if self.labels else None,
        )


def _start(
    recipe: Recipe, ids: Sequence[int], views: list[View], backbone: Callable[[Tensor], Tensor], device: torch.device
) -> _Batch:
    """Send a batch through the backbone; on a GPU this returns before it is computed."""
    cuda = device.type == "cuda"
    images = torch.stack([image for image, _ in views])
    images = images.pin_memory().to(device, non_blocking=True) if cuda else images.to(device)
    with torch.no_grad(), torch.autocast(device.type, recipe.autocast, enabled=recipe.autocast is not None):
        feats = backbone(images)
    pooled = descriptors(feats).to("cpu", non_blocking=cuda)  # into pinned memory
    dense = feats.half().to("cpu", non_blocking=cuda) if recipe.bank else None
    copied = torch.cuda.current_stream(device).record_event() if cuda else None
    labels = [label for _, label in views if label is not None] if recipe.bank else []
    return _Batch(ids, pooled, dense, labels, copied)
