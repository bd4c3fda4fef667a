"""Where the loss's shifts lie among the correspondences that training sees: histograms of the three kinds of pairs.

The pairs are those of the batches that would be trained on next, centred as the loss does, without dropout. No labels.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stego_dist.config import Config
from stego_dist.data.order import BatchIds, Order
from stego_dist.data.samples import ShardSamples
from stego_dist.engine.feed import NeighbourDraw
from stego_dist.engine.supply import FeaturesOf
from stego_dist.knn.table import KnnTable
from stego_dist.losses.correspondence import centre, correlation
from stego_dist.losses.draws import Draws, draw_step
from stego_dist.losses.sampling import bilinear, pair_places

BINS = 100
DIGITS = 6
PAIRS = {"self": slice(0, 1), "knn": slice(-1, None), "random": slice(1, -1)}
"""Where each kind lies among what an anchor is compared with (losses/sampling.py)."""


@torch.no_grad()
def training_histograms(
    config: Config, samples: ShardSamples, table: KnnTable | None, features: FeaturesOf
) -> dict[str, Any]:
    """Counts of correspondences in BINS bins for each kind of pairs, beside the shift, the mean and the share above it.

    Of eval.correspondences anchors, rounded up to whole groups. Without a table there are no knn pairs. `features`:
    of training samples by id, float32 (n, C, h, w).
    """
    kinds = [kind for kind in PAIRS if kind != "knn" or table is not None]
    values: dict[str, list[NDArray[np.float32]]] = {kind: [] for kind in kinds}
    anchors = 0
    for feats, draws in _groups(config, samples, table, features):
        anchors += len(feats) // 2
        places = pair_places(draws.points, draws.points_other, draws.negatives, (feats.shape[2], feats.shape[3]))
        sampled = bilinear(feats.permute(0, 2, 3, 1).reshape(-1, feats.shape[1]), places)
        fd = correlation(sampled[:, :, :1], sampled)
        for kind in kinds:
            pairs = fd[:, :, PAIRS[kind]]
            values[kind].append((centre(pairs, (1, 3, 4)) if config.loss.centring else pairs).flatten().numpy())
    joined = {kind: np.concatenate(parts) for kind, parts in values.items()}
    low, high = min(v.min() for v in joined.values()), max(v.max() for v in joined.values())
    edges = np.linspace(float(low), max(float(high), float(low) + 1e-3), BINS + 1)
    terms = {"self": config.loss.self_pair, "knn": config.loss.knn_pair, "random": config.loss.random_pair}
    return {
        "anchors": anchors,
        "centred": config.loss.centring,
        "edges": edges.round(DIGITS).tolist(),
        "kinds": {
            kind: {
                "shift": terms[kind].shift,
                "weight": terms[kind].weight,
                "pairs": len(of),
                "mean": float(of.mean(dtype=np.float64)),
                "above_shift": float((of > terms[kind].shift).mean()),
                "counts": np.histogram(of, edges)[0].tolist(),
            }
            for kind, of in joined.items()
        },
    }


def _groups(
    config: Config, samples: ShardSamples, table: KnnTable | None, features: FeaturesOf
) -> Iterator[tuple[Tensor, Draws]]:
    """Features (2N, C, h, w) of a group's anchors and then of their neighbours, on the CPU, with the group's draws."""
    size, seed = config.loss.group_size, config.seed
    counts = tuple(shard.samples for shard in samples.split.shards)
    order = Order(counts, config.train.batch_size, seed, config.data.shuffle_window)
    draw = NeighbourDraw(table, seed, size, config.knn.positives) if table else None
    for number in range(-(-config.eval.correspondences // size)):
        step, group = config.train.steps + number // config.groups, number % config.groups
        slots = range(group * size, (group + 1) * size)
        ids = BatchIds(order, slots)(step)
        neighbours = draw(step, slots, ids) if draw else ids
        feats = torch.cat([features(ids).cpu(), features(neighbours).cpu()])
        draws = draw_step(
            seed=seed, step=step, groups=range(group, group + 1), size=size, points=config.loss.points,
            negatives=config.loss.negatives, channels=feats.shape[1], dropout=0.0,
        )  # fmt: skip
        yield feats, draws
