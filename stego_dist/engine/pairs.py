"""The pairs that training sees, outside of training: features of drawn batches where the loss samples them.

Batches, neighbours, points and negatives are those of the steps asked for. Without dropout, which lowers the cosines of
different images' features by about its probability while training. A function of the configuration, whatever the
number of processes and workers. Out: correspondences of each kind of pairs, group by group.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stego_dist.config import Config
from stego_dist.data.order import BatchIds, Order
from stego_dist.data.samples import ShardSamples
from stego_dist.engine.feed import NeighbourDraw
from stego_dist.engine.supply import FeaturesOf
from stego_dist.errors import UserError
from stego_dist.knn.table import KnnTable
from stego_dist.losses.correspondence import centre, correlation
from stego_dist.losses.draws import draw_step
from stego_dist.losses.sampling import PAIRS, bilinear, pair_places


@dataclass(frozen=True)
class GroupPairs:
    """A group of N anchors and what each is compared with."""

    ids: NDArray[np.int64]
    """Anchors (N,)."""
    feats: Tensor
    """Features (N, 1 + R + 1, P, C) at `pair_places`, float32, on the CPU."""

    def correspondences(self, kind: str, centring: bool) -> Tensor:
        """What the loss sees of a kind of pairs: (1, N, R or 1, P, P)."""
        fd = correlation(self.feats[None, :, :1], self.feats[None, :, PAIRS[kind]])
        return centre(fd, (1, 3, 4)) if centring else fd


@torch.no_grad()
def training_pairs(
    config: Config,
    samples: ShardSamples,
    table: KnnTable | None,
    features: FeaturesOf,
    *,
    first_step: int,
    anchors: int,
) -> Iterator[GroupPairs]:
    """Groups of the batches from `first_step` on, until they hold at least so many anchors.

    Without a table an anchor stands in for its neighbour: then knn pairs mean nothing. `features`: of training samples
    by id, float32 (n, C, h, w). Raises UserError for features that are not finite, naming a sample.
    """
    size, seed = config.loss.group_size, config.seed
    counts = tuple(shard.samples for shard in samples.split.shards)
    order = Order(counts, config.train.batch_size, seed, config.data.shuffle_window)
    draw = NeighbourDraw(table, seed, size, config.knn.positives) if table else None
    batches: dict[int, BatchIds] = {}
    for number in range(-(-anchors // size)):
        step, group = first_step + number // config.groups, number % config.groups
        slots = range(group * size, (group + 1) * size)
        ids = batches.setdefault(group, BatchIds(order, slots))(step)
        neighbours = draw(step, slots, ids) if draw else ids
        feats = torch.cat([features(ids).cpu(), features(neighbours).cpu()])
        _check_finite(feats, [*ids.tolist(), *neighbours.tolist()], samples)
        draws = draw_step(
            seed=seed, step=step, groups=range(group, group + 1), size=size, points=config.loss.points,
            negatives=config.loss.negatives, channels=feats.shape[1], dropout=0.0,
        )  # fmt: skip
        places = pair_places(draws.points, draws.points_other, draws.negatives, (feats.shape[2], feats.shape[3]))
        yield GroupPairs(ids, bilinear(feats.permute(0, 2, 3, 1).reshape(-1, feats.shape[1]), places)[0])


def _check_finite(feats: Tensor, ids: Sequence[int], samples: ShardSamples) -> None:
    bad = (~torch.isfinite(feats).flatten(1).all(1)).nonzero().flatten().tolist()
    if bad:
        raise UserError(
            f"the features of sample {samples.name(ids[bad[0]])} of split {samples.split.name} are not finite; build "
            "the features again (stego-dist knn build CONFIG --overwrite) and look at the backbone's weights"
        )
