"""The label-free score of a model: eval.score_images training images, seen straight and enlarged.

Features of both views are kept in memory (float16); they come from the view store where that is there. Ranks share the
images.
"""

from __future__ import annotations

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from stego_dist.config import Config
from stego_dist.engine.inputs import scored_views, training_precision
from stego_dist.engine.opened import Opened
from stego_dist.features.views import Kind, seen, zoomed_share
from stego_dist.metrics.confusion import confusion
from stego_dist.metrics.label_free import (
    agreement,
    code_sum,
    information,
    jackknife_error,
    label_free_score,
    middle,
    spread,
)
from stego_dist.models.probes import cosine_to
from stego_dist.models.segmenter import Segmenter

PARTS = 8
"""Parts of the images by which the score's error is told."""


class LabelFree:
    """Scores segmenters on the same images again and again."""

    def __init__(self, config: Config, accelerator: Accelerator, opened: Opened) -> None:
        self.config, self.accelerator, self.opened = config, accelerator, opened
        self.views = scored_views(config)
        self.ids = self.views.ids(len(opened.training))
        self._mine = range(accelerator.process_index, len(self.ids), accelerator.num_processes)
        self._kept: list[Tensor] = []

    @torch.no_grad()
    def __call__(self, segmenter: Segmenter, which: str) -> dict[str, float]:
        """Numbers of the clusters `which`, the same on all ranks, which all call it.

        val/label_free and its standard error val/label_free_error; its factors val/information and val/agreement;
        val/spread, 1 − the mean cosine of codes, and val/largest_cluster, the largest cluster's share, which tell of
        collapse.
        """
        return self.of_centres(segmenter, segmenter.centres(which))

    @torch.no_grad()
    def of_centres(self, segmenter: Segmenter, centres: Tensor) -> dict[str, float]:
        """The same of any centres (K, D) in the space of codes."""
        clusters, width = centres.shape
        device = self.accelerator.device
        joint = torch.zeros(PARTS, clusters, clusters, dtype=torch.int64, device=device)
        summed = torch.zeros(width + 1, dtype=torch.float64, device=device)
        share = zoomed_share(self.views.resolution)
        if not self._kept:
            self._kept = [self._features(place) for place in self._mine]
        for place, feats in zip(self._mine, self._kept):
            with training_precision(self.config, device):
                codes = segmenter.encode(feats.to(device).float()).float()[:, :width]
            straight, zoomed = codes[:1], codes[1:]
            views = (middle(straight, share), zoomed)
            winners = [cosine_to(code, centres).argmax(1) for code in views]
            joint[place % PARTS] += confusion(winners[0], winners[1], clusters, clusters)
            summed += code_sum(straight)
        counts = self.accelerator.reduce(joint, "sum").cpu().numpy()
        summed = self.accelerator.reduce(summed, "sum").cpu()
        total: np.ndarray = counts.sum(0)
        return {
            "val/label_free": label_free_score(total),
            "val/label_free_error": jackknife_error(counts),
            "val/information": information(total),
            "val/agreement": agreement(total),
            "val/spread": spread(summed),
            "val/largest_cluster": float(total.sum(1).max() / max(1, total.sum())),
        }

    def _features(self, place: int) -> Tensor:
        """float16 (2, C, h, w) on the host: of an image and of its enlarged middle."""
        kinds: tuple[Kind, ...] = self.views.kinds
        store = self.opened.views(self.views)
        if store is not None:
            return store.features(self.ids[place : place + 1], kinds)
        view, device = self.opened.training.image_view, self.accelerator.device
        image = view(int(self.ids[place]), self.views.resolution, self.config.data.image_resize)[None].to(device)
        with training_precision(self.config, device):
            feats = torch.cat([self.opened.backbone(seen(image, kind)) for kind in kinds])
        return feats.half().cpu()
