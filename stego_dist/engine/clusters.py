"""Clusters by spherical k-means over training codes, found once after training.

A sample of training images (a function of the seed) is spread over the ranks, some codes of each are drawn, gathered in
the order of the images, and clustered on the main process: ranks change the points only by rounding.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from concurrent.futures import Future

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from numpy.typing import NDArray
from torch import Tensor

from stego_dist.config import Config
from stego_dist.engine.supply import FeaturesOf
from stego_dist.knn.kmeans import spherical_kmeans
from stego_dist.losses.draws import generator

CHUNK = 16


@torch.no_grad()
def draw_codes(
    config: Config,
    accelerator: Accelerator,
    count: int,
    features: FeaturesOf,
    encode: Callable[[Tensor], Tensor],
    check: Callable[[], None] = lambda: None,
) -> NDArray[np.float32]:
    """Codes (P, D) of a sample of the `count` training images, in the order of the images; the same on all ranks.

    clusters.images and clusters.points bound images and codes. `encode` maps features to codes. `check` is called
    equally often on all ranks, between chunks of images; it may raise to give up.
    """
    ids = drawn_images(config, count)
    share = np.array_split(ids, accelerator.num_processes)[accelerator.process_index]
    per_image = -(-config.clusters.points // len(ids))
    drawn = []
    for first in range(0, -(-len(ids) // accelerator.num_processes), CHUNK):  # of the longest share
        check()
        chunk = share[first : first + CHUNK]
        if not len(chunk):
            continue
        codes = encode(features(chunk)).float().flatten(2).transpose(1, 2).cpu()
        for i, code in zip(chunk, codes):
            picked = torch.randperm(len(code), generator=generator(config.seed, "cluster points", int(i)))[:per_image]
            drawn.append(code[picked.sort().values])
    mine = torch.cat(drawn).numpy() if drawn else np.empty((0, 0), np.float32)
    parts = gather_object([mine]) if accelerator.num_processes > 1 else [mine]
    return np.concatenate([part for part in parts if len(part)])


def drawn_images(config: Config, count: int) -> NDArray[np.int64]:
    """Ids of the sample of `count` training images that clusters are looked for in, ascending."""
    rng = generator(config.seed, "cluster images")
    drawn: NDArray[np.int64] = torch.randperm(count, generator=rng)[: config.clusters.images].sort().values.numpy()
    return drawn


def find_clusters(config: Config, codes: NDArray[np.float32], clusters: int) -> Tensor:
    """k-means centres (K, D) of codes, by the settings of the section `clusters`."""
    c = config.clusters
    centres = spherical_kmeans(codes, clusters, restarts=c.restarts, iterations=c.iterations, seed=config.seed)
    return torch.from_numpy(centres)


def find_clusters_unless(
    stopped: Callable[[], bool], config: Config, codes: NDArray[np.float32], clusters: int
) -> Tensor | None:
    """`find_clusters` in a thread, None as soon as `stopped` says so: Python hears no signal inside of k-means.

    A thread that is given up ends with the process.
    """
    found: Future[Tensor] = Future()

    def work() -> None:
        try:
            found.set_result(find_clusters(config, codes, clusters))
        except BaseException as error:
            found.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    while not stopped():
        with contextlib.suppress(TimeoutError):
            return found.result(timeout=0.1)
    return None
