"""Calibration: the loss's coefficients from pairs drawn as training draws them, before the first step, without labels.

1. pairs of the first batches are drawn, of loss.calibration_images anchors, from the bank or online;
2. their correspondences are counted by kind, and k-means over some of their features says which pairs share a cluster;
3. the rule (losses/calibration.py) chooses weights and shifts; RUN/calibration.json keeps all of it.

The main process does it and tells the others: neither their number nor that of data workers enters. A run that is
resumed or evaluated reads its coefficients from its folder; they are never computed again to something else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from stego_dist import console
from stego_dist.config import Config
from stego_dist.data.manifest import ShardSet
from stego_dist.data.samples import ShardSamples
from stego_dist.engine import checkpoint as ckpt
from stego_dist.engine.coefficients import fill_in, wants_calibration
from stego_dist.engine.inputs import check_enough, features_fingerprint, make_backbone, open_table
from stego_dist.engine.pairs import training_pairs
from stego_dist.engine.setup import on_main_process
from stego_dist.engine.supply import FeaturesOf, features_of, open_bank
from stego_dist.errors import UserError
from stego_dist.knn.kmeans import spherical_kmeans
from stego_dist.knn.table import KnnTable, knn_fingerprint
from stego_dist.losses.calibration import RULE, Coefficients, Observed, choose_coefficients, same_cluster_shares
from stego_dist.losses.distribution import Distribution, histograms
from stego_dist.losses.draws import generator
from stego_dist.losses.sampling import PAIRS
from stego_dist.rundir import Fingerprint, RunDir, check_fingerprint, read_json, read_metrics, write_json, writing_to

FORMAT = "stego_dist.calibration/1"
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.9, 0.95)
"""Quantiles of the correspondences that are recorded."""
SPREAD = 1e-3
"""Correspondences that differ by less between their quantiles 1 % and 99 % count as equal."""
CLUSTERED, POINTS = 512, 32
"""k-means over raw features: anchors whose pairs it looks at, and points of each of their sampled maps."""
TRAINED, RESTARTS, ITERATIONS = 20_000, 3, 25
"""Points that it is trained on, runs, and iterations of each."""
LOGGED = 10
"""Last lines of metrics.jsonl over which an adaptive shift is averaged."""


def calibrate(
    config: Config,
    samples: ShardSamples,
    table: KnnTable,
    features: FeaturesOf,
    *,
    clusters: int | None,
    fingerprint: Fingerprint,
) -> dict[str, Any]:
    """The record of a calibration, as calibration.json holds it.

    `features`: of training samples by id, float32 (n, C, h, w); clusters: the number that is looked for, if it is
    known; fingerprint: of the features. Raises UserError for features that are not finite or everywhere the same.
    """
    loss, wanted = config.loss, config.loss.calibration_images
    distributions = {kind: Distribution() for kind in PAIRS}
    ids: list[int] = []
    some: list[torch.Tensor] = []
    with console.progress("calibrating", -(-wanted // loss.group_size) * loss.group_size) as bar:
        for group in training_pairs(config, samples, table, features, first_step=0, anchors=wanted):
            for kind, distribution in distributions.items():
                distribution.add(group.correspondences(kind, loss.centring))
            ids += group.ids.tolist()
            if len(ids) <= CLUSTERED or not some:
                some.append(group.feats[:, :, :POINTS].half())
            bar.advance(len(group.ids))
    _check_spread(distributions)
    shares = {} if clusters is None else _same_cluster(torch.cat(some), clusters, loss.points**2, config.seed)
    chosen = choose_coefficients(Observed(distributions, clusters, shares))
    by_hand = {kind: pair.shift for kind, pair in loss.pairs.items() if not isinstance(pair.shift, str)}
    edges, counts = histograms(distributions)
    return {
        "format": FORMAT,
        "rule": RULE,
        "fingerprint": calibration_fingerprint(config, fingerprint, clusters),
        "anchors": len(ids),
        "images": len(set(ids)),
        "ids": ids,
        "clusters": clusters,
        "centred": loss.centring,
        "quantiles": list(QUANTILES),
        "edges": edges,
        "kinds": {
            kind: {
                "weight": chosen[kind].weight,
                "shift": chosen[kind].shift,
                "above_shift": distribution.above(chosen[kind].shift),
                "pairs": distribution.count,
                "mean": distribution.mean,
                "quantiles": [distribution.quantile(share) for share in QUANTILES],
                "same_cluster": shares.get(kind),
                "above_configured": distribution.above(by_hand[kind]) if kind in by_hand else None,
                "counts": counts[kind],
            }
            for kind, distribution in distributions.items()
        },
    }


def calibration_fingerprint(config: Config, features: Fingerprint, clusters: int | None) -> Fingerprint:
    """Everything that a calibration depends on."""
    loss = config.loss
    keys = ("calibration_images", "points", "negatives", "centring", "group_size")
    return {
        **knn_fingerprint(config, features),
        **{f"loss.{key}": getattr(loss, key) for key in keys},
        "knn.positives": config.knn.positives,
        "train.batch_size": config.train.batch_size,
        "data.shuffle_window": config.data.shuffle_window,
        "seed": config.seed,
        "clusters": clusters,
    }


def _check_spread(distributions: Mapping[str, Distribution]) -> None:
    for kind, distribution in distributions.items():
        if distribution.quantile(0.99) - distribution.quantile(0.01) < SPREAD:
            raise UserError(
                f"calibration: the correspondences of {kind} pairs are all {distribution.mean:.3f}, so the features "
                "are the same everywhere and no shift can tell pairs apart; look at the images of data.shards and at "
                "backbone.weights"
            )


def _same_cluster(feats: torch.Tensor, clusters: int, points: int, seed: int) -> dict[str, float]:
    """Shares of pairs whose raw features k-means puts into one cluster; none where there are too few features.

    feats: (N, 1 + R + 1, Q, C) at Q of the `points` points.
    """
    flat = feats.flatten(0, 2)
    trained = torch.randperm(len(flat), generator=generator(seed, "calibration"))[:TRAINED].sort().values
    if len(trained) < clusters:
        return {}
    centres = torch.from_numpy(
        spherical_kmeans(flat[trained].float().numpy(), clusters, restarts=RESTARTS, iterations=ITERATIONS, seed=seed)
    )
    taken = torch.cat([(part.float() @ centres.T).argmax(1) for part in torch.split(flat, TRAINED)])
    return same_cluster_shares(taken.view(feats.shape[:3]), points)


def calibrate_config(config: Config) -> dict[str, Any]:
    """The record that training with this configuration would begin with; one process, nothing is written.

    Raises UserError when shards, table or bank are missing, StaleInputError when they were made from something else.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    shard_set = ShardSet.open(config.data.shards, config.data.storage)
    samples = ShardSamples(shard_set, config.data.train_split)
    check_enough(samples)
    backbone = make_backbone(config).to(device)
    fingerprint = features_fingerprint(config, shard_set, backbone)
    table, bank = open_table(config, fingerprint), open_bank(config, fingerprint, device)
    features = features_of(config, samples, backbone, bank, device)
    clusters = config.clusters.count or shard_set.num_classes
    return calibrate(config, samples, table, features, clusters=clusters, fingerprint=fingerprint)


def calibrated_for_training(
    config: Config, run: RunDir, accelerator: Accelerator, compute: Callable[[], dict[str, Any]], wanted: Fingerprint
) -> Config:
    """The configuration with numbers for what is `auto`: the run's own, or those that `compute` gives and it keeps.

    Every rank calls it, the main process computes. wanted: the fingerprint of the calibration. Raises UserError when a
    run that is resumed has lost its record, StaleInputError when the record is of something else.
    """
    if not wants_calibration(config.loss):
        return config
    found: list[dict[str, Any] | None] = [None]

    def read_or_compute() -> None:
        if run.calibration.exists() or ckpt.available(run.checkpoints):
            remedy = "The run's coefficients are in no other place: put the file back, or start anew with --overwrite."
            record = read_json(run.calibration, "the run's calibration", remedy)
            check_fingerprint(record["fingerprint"], wanted, f"the calibration {run.calibration}", remedy)
            how = f"as the run began with, from {run.calibration}"
        else:
            record = compute()
            with writing_to(run.root, "Nothing was trained yet."):
                write_json(run.calibration, record)
            how = f"calibrated on {record['anchors']} anchors by {record['rule']['name']}; see {run.calibration}"
        found[0] = record
        console.say(f"{_sentence(record)} ({how})")

    on_main_process(accelerator, read_or_compute)
    if accelerator.num_processes > 1:
        broadcast_object_list(found)
    assert found[0] is not None
    return fill_in(config, chosen_in(found[0]))


def _sentence(record: Mapping[str, Any]) -> str:
    said = [f"{kind} {entry['shift']:g} · {entry['weight']:g}" for kind, entry in record["kinds"].items()]
    return "shift · weight: " + ", ".join(said)


def chosen_in(record: Mapping[str, Any]) -> dict[str, Coefficients]:
    """The coefficients of a record."""
    return {kind: Coefficients(entry["weight"], entry["shift"]) for kind, entry in record["kinds"].items()}


def as_trained(config: Config, run: RunDir) -> Config:
    """The configuration of a run with the coefficients that it was trained with, as far as its folder tells.

    What was `auto` comes from calibration.json, what was `adaptive` from the last logged lines; an imported run has
    neither.
    """
    if wants_calibration(config.loss) and run.calibration.exists():
        config = fill_in(config, chosen_in(read_json(run.calibration, "the run's calibration", "Train the run again.")))
    pairs = {}
    for kind, pair in config.loss.pairs.items():
        if pair.shift == "adaptive":
            name = f"shift/{kind}"
            logged = [line[name] for line in read_metrics(run.metrics) if line.get(name) is not None][-LOGGED:]
            pairs[f"{kind}_pair"] = pair.model_copy(update={"shift": float(np.mean(logged))} if logged else {})
    return config.model_copy(update={"loss": config.loss.model_copy(update=pairs)})
