"""Clusters by spherical k-means over training codes, found once after training.

A sample of training images (a function of the seed) is spread over the ranks, some codes of each are drawn, gathered in
the order of the images, and clustered on the main process: ranks change the points only by rounding.

Trained codes gather in a number of modes that the data and the loss decide, not clusters.count. While there are at
least as many modes as clusters, clusters of codes stand well apart. When more are asked for, k-means can only cut modes
along what noise is left in them, and it cuts those of the largest classes: small classes, which codes merge, come out
worse than from the features. So it is measured, without labels, how far clusters of codes stand apart, and how far
fewer clusters would: as codes run out of modes, features enter, and dense regions count less (`margins_of`, `mixture`).
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from numpy.typing import NDArray
from torch import Tensor

from stego_dist.config import Config
from stego_dist.engine.supply import FeaturesOf
from stego_dist.knn.kmeans import assign, density_weights, margin, spherical_kmeans
from stego_dist.losses.draws import generator

T = TypeVar("T")
CHUNK = 16
FEATURES = 3.0
"""What features count at most beside codes of length 1: nine tenths of the squared length."""
CELLS = 4
"""Cells a cluster, by which density is told."""
TRIED = 50_000
"""Points that margins are measured on."""
MODES = 0.75
"""Part of the margin of fewer clusters that as many clusters as codes have modes keep."""
FEWEST = 3
"""Clusters, of the fewer ones."""
DIGITS = 3


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

    clusters.images and clusters.points bound images and codes. `encode` maps features to codes, position by position.
    `check` is called equally often on all ranks, between chunks of images; it may raise to give up.
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
        maps = features(chunk).flatten(2)  # (n, C, positions)
        picked = [_picked(config, int(i), maps.shape[2], per_image) for i in chunk]
        places = torch.stack(picked).to(maps.device)
        some = maps.gather(2, places[:, None].expand(-1, maps.shape[1], -1))[..., None]
        codes = encode(some).float().flatten(2).transpose(1, 2).cpu()
        drawn.append(codes.reshape(-1, codes.shape[2]))
    mine = torch.cat(drawn).numpy() if drawn else np.empty((0, 0), np.float32)
    parts = gather_object([mine]) if accelerator.num_processes > 1 else [mine]
    return np.concatenate([part for part in parts if len(part)])


def _picked(config: Config, image: int, positions: int, wanted: int) -> Tensor:
    """Positions of an image that are drawn, ascending."""
    order = torch.randperm(positions, generator=generator(config.seed, "cluster points", image))
    return order[:wanted].sort().values


def drawn_images(config: Config, count: int) -> NDArray[np.int64]:
    """Ids of the sample of `count` training images that clusters are looked for in, ascending."""
    rng = generator(config.seed, "cluster images")
    drawn: NDArray[np.int64] = torch.randperm(count, generator=rng)[: config.clusters.images].sort().values.numpy()
    return drawn


def find_clusters(config: Config, codes: NDArray[np.float32], clusters: int) -> Tensor:
    """Plain k-means centres (K, D) of codes, by the settings of the section `clusters`."""
    return torch.from_numpy(_kmeans(config, codes, clusters, 0.0))


@dataclass(frozen=True)
class Clusters:
    """Centres, and what they were found in."""

    centres: Tensor
    """(K, D) of codes, or (K, D + C) of codes beside features (models/segmenter.py: `Segmenter.encode`)."""
    feature_weight: float
    """What features count beside codes; 0: codes alone."""
    balance: float
    """Power of the density by which points in dense regions count less."""
    margins: tuple[float, float] | None
    """How far the clusters of codes stand apart, and how far fewer would; None where nothing was to be chosen by it."""

    largest: float
    """Share of the points that the largest cluster takes."""

    def __str__(self) -> str:
        """A sentence for people."""
        if not self.feature_weight:
            return "clusters of codes alone" + ("" if self.margins is None else ", which form enough modes")
        return f"codes form fewer modes than clusters are asked for: features count {self.feature_weight:g} beside them"

    def record(self) -> dict[str, Any]:
        """For files."""
        margins = None if self.margins is None else dict(zip(("clusters", "fewer"), self.margins))
        return {"feature_weight": self.feature_weight, "balance": self.balance, "margins": margins}


def weight_of(config: Config, margins: tuple[float, float] | None) -> float:
    """clusters.feature_weight, where it is `auto` by the margins of codes."""
    asked = config.clusters.feature_weight
    if asked != "auto":
        return asked
    assert margins is not None
    return round(FEATURES * mixture(*margins), DIGITS)


def find_run_clusters(
    config: Config,
    codes: NDArray[np.float32],
    features: NDArray[np.float32] | None,
    clusters: int,
    weight: float,
    margins: tuple[float, float] | None,
) -> Clusters:
    """A run's clusters, of codes (P, D) and, with a weight, of the features (P, C) at the same positions."""
    points = codes
    if weight:
        assert features is not None
        points = np.concatenate([_unit(codes), weight * _unit(features)], 1, dtype=np.float32)
    centres = find_more_clusters(config, points, clusters, weight)
    largest = np.bincount(assign(points, centres.numpy())[0]).max() / len(points)
    return Clusters(centres, weight, balance_of(config, weight), margins, float(largest))


def find_more_clusters(config: Config, points: NDArray[np.float32], clusters: int, feature_weight: float) -> Tensor:
    """Centres by the config's seed in the space of a run, where its feature_weight has been found."""
    return torch.from_numpy(_kmeans(config, points, clusters, balance_of(config, feature_weight)))


def balance_of(config: Config, feature_weight: float) -> float:
    """clusters.balance, which by itself rises with the weight of features."""
    asked = config.clusters.balance
    return round(min(1.0, feature_weight / FEATURES), DIGITS) if asked == "auto" else asked


def margins_of(config: Config, codes: NDArray[np.float32], clusters: int) -> tuple[float, float]:
    """How far k-means clusters of (some of the) codes (P, D) stand apart: so many, and the best of half as many, a
    quarter, …; where there are too few for that, the same twice."""
    rng = np.random.default_rng(config.seed)
    most = min(TRIED, config.clusters.screen or TRIED)
    some = codes if len(codes) <= most else codes[np.sort(rng.choice(len(codes), most, replace=False))]

    def apart(count: int) -> float:
        return margin(some, spherical_kmeans(some, count, restarts=3, iterations=25, seed=config.seed))

    found, fewer, count = apart(clusters), list[float](), clusters // 2
    while count >= FEWEST:
        fewer.append(apart(count))
        count //= 2
    return found, max(fewer, default=found)


def mixture(clusters: float, fewer: float) -> float:
    """0: as many clusters as codes have modes, 1: far more, by the margins of so many clusters and of fewer.

    The two ends are that they keep MODES of the margin of the fewer, and half of that.
    """
    return min(1.0, max(0.0, 2 * (1 - clusters / (MODES * fewer)))) if fewer > 0 else 0.0


def _kmeans(config: Config, points: NDArray[np.float32], clusters: int, balance: float) -> NDArray[np.float32]:
    c, seed, weights = config.clusters, config.seed, None
    if balance and CELLS * clusters <= len(points):
        cells = CELLS * clusters
        weights = density_weights(points, cells, balance, iterations=25, seed=seed, screen=c.screen)
    return spherical_kmeans(
        points, clusters, restarts=c.restarts, iterations=c.iterations, seed=seed, weights=weights, screen=c.screen
    )


def _unit(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    unit: NDArray[np.float32] = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), np.float32(1e-12))
    return unit


def find_unless(stopped: Callable[[], bool], find: Callable[[], T]) -> T | None:
    """What `find` finds in a thread, None as soon as `stopped` says so: Python hears no signal inside of k-means.

    A thread that is given up ends with the process.
    """
    found: Future[T] = Future()

    def work() -> None:
        try:
            found.set_result(find())
        except BaseException as error:
            found.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    while not stopped():
        with contextlib.suppress(TimeoutError):
            return found.result(timeout=0.1)
    return None
