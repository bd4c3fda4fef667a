"""Where the loss's shifts lie among the correspondences that training sees: histograms of the three kinds of pairs.

The pairs are those of the batches that would be trained on next, centred as the loss does, without dropout. No labels.
"""

from __future__ import annotations

from typing import Any

from stego_dist.config import Config
from stego_dist.data.samples import ShardSamples
from stego_dist.engine.pairs import training_pairs
from stego_dist.engine.supply import FeaturesOf
from stego_dist.knn.table import KnnTable
from stego_dist.losses.distribution import Distribution, histograms
from stego_dist.losses.sampling import PAIRS


def training_histograms(
    config: Config, samples: ShardSamples, table: KnnTable | None, features: FeaturesOf
) -> dict[str, Any]:
    """Counts of correspondences in bins for each kind of pairs, beside the shift, the mean and the share above it.

    Of eval.correspondences anchors, rounded up to whole groups. Without a table there are no knn pairs. A shift or
    weight that is not known is None. `features`: of training samples by id, float32 (n, C, h, w).
    """
    found = {kind: Distribution() for kind in PAIRS if kind != "knn" or table is not None}
    first, wanted, anchors = config.train.steps, config.eval.correspondences, 0
    for group in training_pairs(config, samples, table, features, first_step=first, anchors=wanted):
        anchors += len(group.ids)
        for kind, distribution in found.items():
            distribution.add(group.correspondences(kind, config.loss.centring))
    edges, counts = histograms(found)
    kinds = {}
    for kind, distribution in found.items():
        pair = config.loss.pairs[kind]
        shift = None if isinstance(pair.shift, str) else pair.shift
        kinds[kind] = {
            "shift": shift,
            "weight": None if isinstance(pair.weight, str) else pair.weight,
            "pairs": distribution.count,
            "mean": distribution.mean,
            "above_shift": None if shift is None else distribution.above(shift),
            "counts": counts[kind],
        }
    return {"anchors": anchors, "centred": config.loss.centring, "edges": edges, "kinds": kinds}
