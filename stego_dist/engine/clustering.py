"""A run's clusters, found on the main process and given to all ranks: at the end of training, and anew later."""

from __future__ import annotations

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from numpy.typing import NDArray

from stego_dist import console
from stego_dist.config import Config
from stego_dist.engine.clusters import Clusters, draw_codes, find_run_clusters, find_unless
from stego_dist.engine.setup import StopFlag, on_main_process
from stego_dist.engine.supply import FeaturesOf
from stego_dist.models.head import Head
from stego_dist.models.segmenter import Segmenter

Drawn = tuple[NDArray[np.float32], NDArray[np.float32]]
"""Codes (P, D), and the features (P, C) at the same positions."""


def draw_run_codes(
    config: Config, accelerator: Accelerator, head: Head, count: int, features: FeaturesOf, stop: StopFlag
) -> Drawn:
    """Codes and features at drawn positions of the `count` training images; the same on all ranks, which all call it.

    Raises Stopped when `stop` is raised.
    """
    head.eval()
    drawn = draw_codes(
        config, accelerator, count, features, lambda feats: torch.cat([head(feats), feats], 1),
        check=lambda: stop.check(accelerator),
    )  # fmt: skip
    codes, feats = np.split(drawn, [head.code_dim], 1)
    return codes, feats


def find_on_main(
    config: Config, accelerator: Accelerator, segmenter: Segmenter, drawn: Drawn, stop: StopFlag
) -> Clusters:
    """Put k-means centres into the segmenter, as many as it has clusters; all ranks call it and get the same.

    Raises Stopped when `stop` is raised.
    """
    console.say("clustering training codes by k-means")
    found: list[Clusters | None] = [None]

    def work() -> None:
        number = segmenter.num_clusters
        found[0] = find_unless(lambda: stop.raised, lambda: find_run_clusters(config, *drawn, number))

    on_main_process(accelerator, work)
    stop.check(accelerator)
    if accelerator.num_processes > 1:
        broadcast_object_list(found)
    clusters = found[0]
    assert clusters is not None
    segmenter.set_kmeans(clusters.centres, clusters.feature_weight)
    console.say(f"  {clusters}")
    return clusters
