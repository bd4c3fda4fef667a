"""What eval fits to frozen training codes beside a run's own probes: a linear probe to convergence, k-means by seeds.

Codes are those of the sample of training images that clusters are looked for in (clusters.images), from the bank where
it is there; ranks share the images.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from accelerate import Accelerator
from numpy.typing import NDArray
from torch import Tensor

from stego_dist import console
from stego_dist.config import Config
from stego_dist.data.manifest import ShardSet
from stego_dist.data.samples import ShardSamples, decode_label
from stego_dist.data.transforms import label_view
from stego_dist.engine.clusters import CHUNK, draw_codes, find_more_clusters
from stego_dist.engine.inputs import features_fingerprint
from stego_dist.engine.predict import CONVERGED
from stego_dist.engine.scoring import SEED
from stego_dist.engine.setup import on_main_process
from stego_dist.engine.supply import FeaturesOf, features_of, open_bank
from stego_dist.errors import UserError
from stego_dist.losses.draws import generator
from stego_dist.losses.linear import IGNORED
from stego_dist.losses.logistic import fit_logistic
from stego_dist.models.backbone import Backbone
from stego_dist.models.probes import LinearProbe
from stego_dist.models.segmenter import Segmenter


def fit_readouts(
    config: Config, accelerator: Accelerator, segmenter: Segmenter, backbone: Backbone
) -> tuple[dict[str, Tensor | LinearProbe], dict[str, Any]]:
    """By name what eval.linear and eval.cluster_seeds ask for, and how it was found; all ranks call it.

    Without labels in the evaluated split nothing could be said of them, so there are none. Raises UserError where the
    training split has no labels for the probe, or can't be read.
    """
    e = config.eval
    shard_set = ShardSet.open(config.data.shards, config.data.storage)
    if not shard_set.split(config.data.eval_split).labelled or (e.linear == "along" and e.cluster_seeds == 1):
        return {}, {}
    samples = ShardSamples(shard_set, config.data.train_split)
    bank = None
    if (Path(config.features.dir) / "manifest.json").exists():
        bank = open_bank(config, features_fingerprint(config, shard_set, backbone), accelerator.device)
    features = features_of(config, samples, backbone, bank, accelerator.device)
    found: dict[str, Tensor | LinearProbe] = {}
    how: dict[str, Any] = {}
    if e.linear == "converged":
        found[CONVERGED], how[CONVERGED] = converged_probe(config, accelerator, segmenter, samples, features)
    if e.cluster_seeds > 1:
        found |= reseeded_clusters(config, accelerator, segmenter, samples, features)
    return found, how


def converged_probe(
    config: Config, accelerator: Accelerator, segmenter: Segmenter, samples: ShardSamples, features: FeaturesOf
) -> tuple[LinearProbe, dict[str, Any]]:
    """The linear probe with the least cross-entropy on drawn positions of training codes, and how it was found."""
    classes = samples.shard_set.num_classes
    if not samples.split.labelled or not classes:
        raise UserError(
            f"eval.linear=converged needs labels, which split {samples.split.name} of {samples.shard_set.root} has "
            "not; leave it at along"
        )
    console.say(f"training the linear probe to convergence on at most {config.eval.linear_points} positions")
    codes, labels = _labelled_codes(config, accelerator, segmenter, samples, features)

    def total(value: Tensor) -> Tensor:
        if accelerator.num_processes > 1:
            value = value.clone()
            dist.all_reduce(value)
        return value

    counted = int(total(torch.tensor(len(codes), device=codes.device)))
    if not counted:
        raise UserError(f"eval.linear=converged: split {samples.split.name} has no labelled position")
    fit = fit_logistic(codes, labels, classes, total)
    probe = LinearProbe(segmenter.head.code_dim, classes).to(accelerator.device)
    with torch.no_grad():
        probe.conv.weight.copy_(fit.weight[..., None, None])
        probe.conv.bias.copy_(fit.bias)  # type: ignore[union-attr]
    how = {"positions": counted, "steps": fit.steps, "gradient": fit.gradient, "training_loss": fit.loss}
    console.say(f"  {fit.steps} steps, training loss {fit.loss:.4f}, largest gradient {fit.gradient:.1e}")
    return probe.eval(), how


def reseeded_clusters(
    config: Config, accelerator: Accelerator, segmenter: Segmenter, samples: ShardSamples, features: FeaturesOf
) -> dict[str, Tensor | LinearProbe]:
    """Centres of k-means over the run's own training codes, by the seeds that follow the run's, on all ranks."""
    codes = draw_codes(config, accelerator, len(samples), features, segmenter.encode)
    found: dict[str, Tensor | LinearProbe] = {}
    for number in range(1, config.eval.cluster_seeds):
        seed = config.seed + number
        console.say(f"clustering training codes by k-means, seed {seed}")
        centres = torch.zeros_like(segmenter.kmeans)
        reseeded = config.model_copy(update={"seed": seed})
        cluster = partial(_put_clusters, centres, reseeded, codes, segmenter.feature_weight)
        on_main_process(accelerator, cluster)
        if accelerator.num_processes > 1:
            dist.broadcast(centres, 0)
        found[f"kmeans{SEED}{seed}"] = centres
    return found


def _put_clusters(centres: Tensor, config: Config, points: NDArray[np.float32], feature_weight: float) -> None:
    centres.copy_(find_more_clusters(config, points, len(centres), feature_weight))


@torch.no_grad()
def _labelled_codes(
    config: Config, accelerator: Accelerator, segmenter: Segmenter, samples: ShardSamples, features: FeaturesOf
) -> tuple[Tensor, Tensor]:
    """Codes (P, C) and labels int64 (P,) of drawn labelled positions of this rank's images.

    A position's label is that of the pixel at its centre. Which are drawn is a function of seed and image.
    """
    rng = generator(config.seed, "cluster images")
    ids = torch.randperm(len(samples), generator=rng)[: config.clusters.images].sort().values.numpy()
    share = np.array_split(ids, accelerator.num_processes)[accelerator.process_index]
    each = -(-config.eval.linear_points // len(ids))
    codes, labels = [], []
    for chunk in np.array_split(share, max(1, -(-len(share) // CHUNK))):
        if not len(chunk):
            continue
        maps = segmenter.head(features(chunk)).float()
        for i, code in zip(chunk.tolist(), maps):
            label = _centres(_label(config, samples, i), code.shape[1], code.shape[2])
            places = (label != IGNORED).nonzero()[:, 0]
            order = torch.randperm(len(places), generator=generator(config.seed, "linear points", i))
            places = places[order[:each]].sort().values
            codes.append(code.flatten(1).T[places.to(code.device)])
            labels.append(label[places].long().to(code.device))
    if not codes:
        none = torch.zeros(0, segmenter.head.code_dim, device=accelerator.device)
        return none, torch.zeros(0, dtype=torch.int64, device=accelerator.device)
    return torch.cat(codes), torch.cat(labels)


def _label(config: Config, samples: ShardSamples, i: int) -> Tensor:
    data = samples.label_bytes(i)
    assert data is not None
    return label_view(decode_label(data, samples.describe(i, ".label.png")), config.data.resolution)


def _centres(label: Tensor, rows: int, columns: int) -> Tensor:
    """The labels (rows · columns,) of the pixels at the centres of a grid's cells over a label map (H, W)."""
    height, width = label.shape
    down = (2 * torch.arange(rows) + 1) * height // (2 * rows)
    across = (2 * torch.arange(columns) + 1) * width // (2 * columns)
    return label[down[:, None], across].flatten()
