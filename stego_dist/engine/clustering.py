"""A run's clusters, found on the main process and given to all ranks: at the end of training, and anew later.

1. codes are drawn, and how far their clusters stand apart decides what features count beside them (engine/clusters.py);
2. features are drawn where they count;
3. k-means.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TypeVar

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from numpy.typing import NDArray
from torch import Tensor

from stego_dist import console
from stego_dist.config import Config
from stego_dist.engine.clusters import Clusters, draw_codes, find_run_clusters, find_unless, margins_of, weight_of
from stego_dist.engine.opened import Opened
from stego_dist.engine.setup import StopFlag, on_main_process
from stego_dist.engine.supply import FeaturesOf, features_of
from stego_dist.models.head import Head
from stego_dist.models.segmenter import Segmenter

T = TypeVar("T")
Points = NDArray[np.float32]


class RunClustering:
    """Codes and features of a run's drawn positions, and the clusters in them; all ranks call every method.

    All raise Stopped when `stop` is raised.
    """

    def __init__(self, config: Config, accelerator: Accelerator, head: Head, opened: Opened, stop: StopFlag) -> None:
        self.config, self.accelerator, self.head, self.opened, self.stop = config, accelerator, head, opened, stop
        self._codes: Points | None = None
        self._feats: Points | None = None

    def codes(self) -> Points:
        """Codes (P, D), drawn once; the same on all ranks."""
        asked = self.config.clusters.feature_weight
        if self._codes is None and (asked == 0 or (asked == "auto" and self.opened.bank is not None)):
            self._codes = self._draw(self.head)
        elif self._codes is None:  # the backbone runs once, not twice
            drawn = self._draw(lambda maps: torch.cat([self.head(maps), maps], 1))
            self._codes, self._feats = np.split(drawn, [self.head.code_dim], 1)
        return self._codes

    def find(self, segmenter: Segmenter) -> Clusters:
        """Put k-means centres into a segmenter with this head, as many as it has clusters."""
        console.say("clustering training codes by k-means")
        config, number, codes, margins = self.config, segmenter.num_clusters, self.codes(), None
        if config.clusters.feature_weight == "auto":
            margins = self._on_main(partial(margins_of, config, codes, number))
        weight = weight_of(config, margins)
        if weight and self._feats is None:
            self._feats = self._draw(lambda maps: maps)
        clusters = self._on_main(partial(find_run_clusters, config, codes, self._feats, number, weight, margins))
        segmenter.set_kmeans(clusters.centres, clusters.feature_weight)
        console.say(f"  {clusters}")
        return clusters

    def _draw(self, encode: Callable[[Tensor], Tensor]) -> Points:
        opened, check = self.opened, partial(self.stop.check, self.accelerator)
        features: FeaturesOf = features_of(
            self.config, opened.training, opened.backbone, opened.bank, self.accelerator.device
        )
        self.head.eval()
        return draw_codes(self.config, self.accelerator, len(opened.training), features, encode, check)

    def _on_main(self, find: Callable[[], T]) -> T:
        found: list[T | None] = [None]

        def work() -> None:
            found[0] = find_unless(lambda: self.stop.raised, find)

        on_main_process(self.accelerator, work)
        self.stop.check(self.accelerator)
        if self.accelerator.num_processes > 1:
            broadcast_object_list(found)
        assert found[0] is not None
        return found[0]
