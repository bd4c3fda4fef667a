"""What results.json holds beside the scores, for the report: pictures' scores, correspondences, neighbours, curves.

Computed on the main process after an evaluation, on as many images as eval.panels and eval.correspondences say. What
can't be had (no neighbour table, no training shards) is left out with its reason.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from stego_dist import console
from stego_dist.config import Config
from stego_dist.data.manifest import ShardSet
from stego_dist.data.samples import ShardSamples
from stego_dist.engine.correspondences import label_agreement
from stego_dist.engine.evaluate import Evaluation
from stego_dist.engine.gallery import Gallery
from stego_dist.engine.histograms import training_histograms
from stego_dist.engine.inputs import features_fingerprint, open_store, open_table
from stego_dist.engine.supply import features_of
from stego_dist.errors import UserError
from stego_dist.features.bank import Bank, MappedBank
from stego_dist.knn.table import KnnTable
from stego_dist.models.backbone import Backbone
from stego_dist.models.segmenter import Segmenter
from stego_dist.rundir import RunDir, read_metrics

ANCHORS, NEIGHBOURS = 6, 7
"""Training crops whose neighbours are shown, and neighbours of each."""
CURVE = 200
"""Most points of a curve of training."""
CURVES = ("loss/", "code_correlation/", "above_shift/", "shift/", "val/")
"""Beginnings of the names of what is drawn over steps."""


def add_findings(
    config: Config, run: RunDir, segmenter: Segmenter, backbone: Backbone, evaluation: Evaluation, device: torch.device
) -> None:
    """Extend the evaluation's results and panels. Raises UserError for evaluation images that cannot be read."""
    results = evaluation.results
    shard_set = ShardSet.open(config.data.shards, config.data.storage)
    samples = ShardSamples(shard_set, config.data.eval_split)
    gallery = Gallery(config, samples, backbone, segmenter, device, results)
    console.say("looking at single images and at correspondences")
    if results["labelled"]:
        results["per_image"] = gallery.add_ranked(evaluation)
    else:
        results["cluster_examples"] = gallery.add_examples(evaluation)
    results["training"] = training_curves(run.metrics)
    if not config.eval.correspondences:
        return
    results["correspondences"] = {"labels": label_agreement(config, samples, backbone, segmenter, device)}
    try:
        training = ShardSamples(shard_set, config.data.train_split)
        table, bank, missing = _open(config, shard_set, backbone)
        features = features_of(config, training, backbone, bank, device)
        results["correspondences"]["training"] = training_histograms(config, training, table, features)
    except UserError as error:
        results["training_missing"] = str(error)
        return
    if table is None:
        results["neighbours_missing"] = missing
    else:
        results["neighbours"] = anchors(config, training, table)


def _open(config: Config, shard_set: ShardSet, backbone: Backbone) -> tuple[KnnTable | None, Bank | None, str]:
    """The table, or None and why; the bank where the features were kept."""
    fingerprint = features_fingerprint(config, shard_set, backbone)
    bank, table, missing = None, None, ""
    try:
        if (Path(config.features.dir) / "manifest.json").exists():
            store = open_store(config, fingerprint)
            bank = MappedBank(store) if store.has_bank else None
        table = open_table(config, fingerprint)
    except UserError as error:
        missing = str(error)
    return table, bank, missing


def anchors(config: Config, samples: ShardSamples, table: KnnTable) -> list[dict[str, Any]]:
    """ANCHORS training crops drawn by the seed, each with its nearest neighbours: number, name, cosine, same image."""
    count = min(ANCHORS, len(table))
    drawn = np.sort(np.random.default_rng(config.seed).choice(len(table), count, replace=False, shuffle=False))
    rows, similarities = (found[:, : NEIGHBOURS + 1] for found in (table.rows(drawn), table.similarities(drawn)))
    return [
        {
            "id": anchor,
            "name": samples.name(anchor),
            "neighbours": [
                {
                    "id": i,
                    "name": samples.name(i),
                    "similarity": round(similarity, 4),
                    "same_image": bool(samples.source[i] == samples.source[anchor]),
                }
                for i, similarity in zip(ids, cosines)
                if i >= 0 and i != anchor
            ],
        }
        for anchor, ids, cosines in zip(drawn.tolist(), rows.tolist(), similarities.tolist())
    ]


def training_curves(metrics: Path) -> dict[str, Any]:
    """What metrics.jsonl logged over steps, by name: at most CURVE points, each the mean of as many lines."""
    found: dict[str, list[tuple[int, float]]] = {}
    for line in read_metrics(metrics):
        for name, value in line.items():
            if name.startswith(CURVES) and value is not None and name != "val/seconds":
                found.setdefault(name, []).append((line["step"], value))
    curves = {}
    for name, points in sorted(found.items()):
        parts = np.array_split(np.array(points, np.float64), min(len(points), CURVE))
        curves[name] = {
            "step": [int(part[-1, 0]) for part in parts],
            "value": [round(float(part[:, 1].mean()), 6) for part in parts],
        }
    return curves
