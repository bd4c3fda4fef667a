"""Frozen features of training images, for what is fitted to them once: clusters, probes, reductions.

From the bank, where it is there: all training images. Otherwise the backbone computes the features of the images that
clusters are looked for in (clusters.images); a rank computes those of its share, once, and keeps them (float16).
"""

from __future__ import annotations

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from torch import Tensor

from stego_dist.config import Config
from stego_dist.data.samples import ShardSamples
from stego_dist.engine.clusters import drawn_images
from stego_dist.features.bank import Bank
from stego_dist.models.backbone import Backbone

Ids = NDArray[np.int64]


class FrozenFeatures:
    """Features and labels of training images by id.

    `ids`: the images, the same on all ranks; `mine`: those that this rank reads.
    """

    def __init__(
        self, config: Config, accelerator: Accelerator, samples: ShardSamples, backbone: Backbone, bank: Bank | None
    ) -> None:
        self.config, self.samples, self.backbone, self.bank = config, samples, backbone, bank
        self.device = accelerator.device
        self.ids = drawn_images(config, len(samples)) if bank is None else np.arange(len(samples))
        self.mine = np.array_split(self.ids, accelerator.num_processes)[accelerator.process_index]
        self._kept: dict[int, tuple[Tensor, Tensor | None]] = {}

    @property
    def labelled(self) -> bool:
        """Whether there are labels."""
        return self.samples.split.labelled if self.bank is None else self.bank.labelled

    def features(self, ids: Ids) -> Tensor:
        """Dense float32 features (n, C, h, w) on the device."""
        if self.bank is not None:
            return self.bank.features(ids).to(self.device).float()
        self._keep(ids)
        return torch.stack([self._kept[i][0] for i in ids.tolist()]).to(self.device).float()

    def labels(self, ids: Ids) -> Tensor:
        """Labels uint8 (n, R, R) on the device, 255 ignored; only where there are any."""
        if self.bank is not None:
            return self.bank.labels(ids).to(self.device)
        self._keep(ids)
        labels = [self._kept[i][1] for i in ids.tolist()]
        return torch.stack([label for label in labels if label is not None]).to(self.device)

    def _keep(self, ids: Ids) -> None:
        data, size = self.config.data, self.config.eval.batch_size
        new = [i for i in dict.fromkeys(ids.tolist()) if i not in self._kept]
        for first in range(0, len(new), size):
            some = new[first : first + size]
            views = self.samples.views(some, data.resolution, data.image_resize)
            feats = self.backbone(torch.stack([image for image, _ in views]).to(self.device))
            for i, feat, (_, label) in zip(some, feats.half().cpu(), views):
                self._kept[i] = feat, label
