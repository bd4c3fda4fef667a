"""Do features, codes and the CRF's kernel tell which positions have the same label? (Paper, §3.1.)

1. some evaluation images are drawn, and some positions in each;
2. pairs of positions: of one image, of it and its nearest neighbour among the drawn images, of it and a random other;
3. out: precision and recall of "same label" by each score.

Bounded by eval.correspondences images, whatever the data set's size; a function of the seed. One process does it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from stego_dist.config import Config
from stego_dist.crf.affinity import log_affinity
from stego_dist.data.samples import ShardSamples
from stego_dist.engine.inputs import training_precision
from stego_dist.engine.seen import EvaluationFeatures
from stego_dist.engine.step import signed_labels
from stego_dist.losses.draws import draw_negatives, generator
from stego_dist.metrics.precision_recall import precision_recall
from stego_dist.models.backbone import Backbone
from stego_dist.models.segmenter import Segmenter

POINTS = 64
"""Positions drawn in each evaluation image."""
CURVE = 200
"""Most points of a stored curve."""
FLOAT_DIGITS = 6
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Positions:
    """Positions drawn in N images, P in each."""

    features: Floats
    """(N, P, C) of unit length."""
    codes: Floats
    """(N, P, D) of unit length."""
    descriptors: Floats
    """(N, C) of unit length: the mean feature of the whole image."""
    labels: NDArray[np.int64]
    """(N, P), −1 ignored."""
    xy: Floats
    """(N, P, 2) in pixels."""
    rgb: Floats
    """(N, P, 3) in 0…255."""


def label_agreement(
    config: Config, samples: ShardSamples, backbone: Backbone, segmenter: Segmenter, device: torch.device
) -> dict[str, Any] | None:
    """Precision and recall of "same label" by cosine of features, of codes, and by the CRF's kernel, for three kinds of
    pairs: within an image, with its nearest neighbour of the drawn images, with a random other one.

    None where there are no labels.
    """
    if not samples.split.labelled:
        return None
    drawn = draw_positions(config, samples, backbone, segmenter, device)
    images, points = drawn.labels.shape
    found: dict[str, Any] = {"images": images, "points": points, "pairs": {}}
    for kind, (first, second, upper) in _pairings(config, drawn).items():
        labels, others = drawn.labels[first], drawn.labels[second]
        counted = (labels[:, :, None] >= 0) & (others[:, None, :] >= 0)
        if upper:
            counted &= np.triu(np.ones((points, points), bool), 1)
        same = (labels[:, :, None] == others[:, None, :])[counted]
        if not same.any():
            continue
        scores = {
            name: np.einsum("npc,nqc->npq", vectors[first], vectors[second])[counted]
            for name, vectors in (("features", drawn.features), ("codes", drawn.codes))
        }
        if upper:
            affinity = log_affinity(drawn.xy[:, :, None], drawn.rgb[:, :, None], drawn.xy[:, None], drawn.rgb[:, None])
            scores["crf"] = affinity[counted]
        found["pairs"][kind] = {
            "pairs": len(same),
            "same_label": float(same.mean()),
            "curves": {name: _curve(values, same) for name, values in scores.items()},
        }
    return found


def _pairings(config: Config, drawn: Positions) -> dict[str, tuple[NDArray[np.int64], NDArray[np.int64], bool]]:
    """Images of either side of each kind of pairs, and whether a pair is counted in one order only."""
    count = len(drawn.labels)
    each = np.arange(count)
    kinds = {"within": (each, each, True)}
    if count > 1:
        cosines = drawn.descriptors @ drawn.descriptors.T
        np.fill_diagonal(cosines, -np.inf)
        kinds["knn"] = (each, cosines.argmax(1), False)
        kinds["random"] = (each, draw_negatives(count, generator(config.seed, "correspondences")).numpy(), False)
    return kinds


def _curve(scores: NDArray[np.floating[Any]], same: NDArray[np.bool_]) -> dict[str, Any]:
    curve = precision_recall(scores, same)
    thin = curve.thinned(CURVE)
    return {
        "average_precision": curve.average_precision,
        "precision": thin.precision.round(FLOAT_DIGITS).tolist(),
        "recall": thin.recall.round(FLOAT_DIGITS).tolist(),
    }


@torch.no_grad()
def draw_positions(
    config: Config, samples: ShardSamples, backbone: Backbone, segmenter: Segmenter, device: torch.device
) -> Positions:
    """POINTS pixels of eval.correspondences images, drawn by the seed; features as resizing the map would give them."""
    rng = generator(config.seed, "correspondence images")
    ids = torch.randperm(len(samples), generator=rng)[: config.eval.correspondences].sort().values.tolist()
    parts: dict[str, list[Tensor]] = {name: [] for name in Positions.__annotations__}
    source = EvaluationFeatures(config, samples, backbone, device, crop=config.eval.crop)
    for seen in source.batches(ids, mirrored=False, images=ids):
        batch, images = seen.ids, seen.stacked()
        pixels = torch.stack([_draw_pixels(config.seed, i, *seen.size) for i in batch])
        with training_precision(config, device):
            codes = segmenter.head(seen.feats)
        whole = torch.tensor([seen.padded[1], seen.padded[0]])
        grid = ((2 * pixels.transpose(1, 2) + 1) / whole - 1)[:, None].to(device)  # (x, y) of pixel centres
        for name, maps in (("features", seen.feats.float()), ("codes", codes.float())):
            sampled = F.grid_sample(maps, grid, padding_mode="border", align_corners=False)[:, :, 0]
            parts[name].append(F.normalize(sampled, dim=1).transpose(1, 2).cpu())
        parts["descriptors"].append(F.normalize(seen.feats.float().mean((2, 3)), dim=1).cpu())
        place, (x, y) = torch.arange(len(batch))[:, None], pixels.unbind(1)
        parts["xy"].append(pixels.transpose(1, 2).float())
        parts["rgb"].append(images[place, :, y, x].float())
        assert seen.labels is not None
        parts["labels"].append(signed_labels(seen.labels)[place, y, x].long())
    return Positions(**{name: torch.cat(tensors).numpy() for name, tensors in parts.items()})


def _draw_pixels(seed: int, image: int, height: int, width: int) -> Tensor:
    """x and y (2, POINTS) of drawn pixels of an image."""
    rng = generator(seed, "positions", image)
    return torch.stack([torch.randint(size, (POINTS,), generator=rng) for size in (width, height)])
