"""Evaluation: every image of a split counted once, at any number of processes; integers until the last division.

1. a rank takes every n-th image and computes flip-averaged codes;
2. predictions of clusters and linear probe, with and without CRF, are counted against the labels (int64);
3. counts are summed over ranks; the main process matches clusters to classes and computes the scores.

Without labels there are no scores, but how much and how evenly clusters are used, and whether mirror images have the
same ones. Several resolutions are several such passes.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from accelerate import Accelerator
from accelerate.utils import gather_object
from numpy.typing import NDArray

from stego_dist import console
from stego_dist.config import Config
from stego_dist.data.manifest import ShardSet
from stego_dist.data.samples import ShardSamples
from stego_dist.engine.mirror import agreement, mirror_counts
from stego_dist.engine.opened import Opened
from stego_dist.engine.panel import Panel, as_ids, make_panels, refined_beside
from stego_dist.engine.per_image import ImageCounts, evenly
from stego_dist.engine.predict import CLUSTERS, LINEAR, Readouts, predict_seen
from stego_dist.engine.refine import Refiner, make_refiner, refined_names
from stego_dist.engine.scoring import CRF, Tally, cluster_use, largest_clusters, score, shares
from stego_dist.engine.seen import EvaluationFeatures
from stego_dist.engine.step import signed_labels
from stego_dist.metrics.confusion import Matrix
from stego_dist.metrics.matching import Matching
from stego_dist.models.backbone import Backbone
from stego_dist.models.segmenter import Segmenter


@dataclass
class Evaluation:
    """What the main process gets."""

    results: dict[str, Any]
    panels: list[Panel] = field(default_factory=list)
    matchings: dict[str, Matching] = field(default_factory=dict)
    image_counts: dict[int, NDArray[np.int32]] = field(default_factory=dict)
    """Counts of the headline clusters on single images (engine/per_image.py)."""
    mirrored: dict[str, Matrix] = field(default_factory=dict)
    """Without labels: clusters in images and in their mirror images, by name (engine/mirror.py)."""
    examples: dict[int, Panel] = field(default_factory=dict)
    """Images that show single clusters, by number; without labels (engine/gallery.py)."""


def evaluate(
    config: Config,
    accelerator: Accelerator,
    segmenter: Segmenter,
    backbone: Backbone,
    *,
    clusters: tuple[str, ...] = CLUSTERS,
    more: Readouts | None = None,
    title: str = "eval",
    brief: bool = False,
    opened: Opened | None = None,
) -> Evaluation:
    """Evaluate on data.eval_split.

    clusters: which centres of the segmenter hold something ("kmeans", "learned"); more: what else is read out of its
    codes; brief: the numbers of eval.resolution alone, without panels, counts of single images and more resolutions.
    opened: what is open already. Every rank calls it; the full result is on the main process. Raises UserError for
    unreadable samples and a resolution that does not fit the backbone.
    """
    start, e = time.perf_counter(), config.eval
    shard_set = opened.shard_set if opened else ShardSet.open(config.data.shards, config.data.storage)
    samples = opened.evaluated if opened else ShardSamples(shard_set, config.data.eval_split)
    names = [*clusters, *([LINEAR] if segmenter.linear is not None else []), *(more or {})]
    headline = e.clusters if e.clusters in clusters else clusters[0]
    refined = refined_names(e.crf, headline, names)
    predictor = _Predictor(config, accelerator, segmenter, clusters, more or {})
    pictured = set() if brief else set(evenly(len(samples), e.panels))
    evaluation = Evaluation(
        {
            "split": samples.split.name,
            "images": len(samples),
            "resolution": e.resolution,
            "crop": e.crop,
            "flip": e.flip,
            "crf": e.crf,
            "headline_clusters": headline,
            "labelled": samples.split.labelled,
        }
    )
    results = evaluation.results
    if samples.split.labelled:
        results["classes"] = shard_set.classes
    resolutions = list(dict.fromkeys((e.resolution, *(() if brief else e.more_resolutions))))
    for resolution in resolutions:
        if e.crop == "centre":
            key = "eval.resolution" if resolution == e.resolution else "eval.more_resolutions"
            backbone.check_resolution(key, resolution)
    for resolution in resolutions:
        first = resolution == e.resolution
        tally = Tally(segmenter, shard_set.num_classes if samples.split.labelled else None, accelerator.device, more)
        refiner = make_refiner(e, accelerator.device) if refined else None
        source = EvaluationFeatures(config, samples, backbone, accelerator.device, resolution, e.crop, opened)
        console.say(
            f"{title}: {len(samples)} images of {shard_set.root} ({samples.split.name}), {resolution} pixels"
            f"{', whole images' if e.crop == 'none' else ''}{', flip-averaged' if e.flip else ''}"
            f"{', features from the bank' if source.store is not None else ''}"
            f"{', CRF on ' + ' and '.join(refined) if refined else ''}"
        )
        kept = first and not brief
        single = ImageCounts(len(samples), tally.rows[headline], tally.num_classes) if kept else None
        panels = predictor.count(
            samples, source, tally, refined, refiner, pictured if first else set(), single, headline, title
        )
        beside = [kind for name in names for kind in ([name, name + CRF] if name in refined else [name])]
        counts = tally.summed(accelerator, beside)
        found, matchings = score(counts, shard_set.classes) if samples.split.labelled else ({}, {})
        if not samples.split.labelled:
            if first:
                evaluation.mirrored = mirror_counts(accelerator, source, segmenter, clusters)
            agree = {name: agreement(joint) for name, joint in evaluation.mirrored.items()} if first else {}
            found |= {"cluster_shares": shares(counts), "cluster_use": cluster_use(counts, agree)}
        found["largest_cluster"] = largest_clusters(counts)
        if first:
            results |= found
            evaluation.panels, evaluation.matchings = panels, matchings
            evaluation.image_counts = single.gathered(accelerator) if single else {}
        else:
            results.setdefault("more_resolutions", {})[str(resolution)] = found
    results["seconds"] = round(time.perf_counter() - start, 2)
    return evaluation


@dataclass(frozen=True)
class _Predictor:
    """A model, and its pass over the images of this rank."""

    config: Config
    accelerator: Accelerator
    segmenter: Segmenter
    clusters: tuple[str, ...]
    more: Readouts

    def count(
        self,
        samples: ShardSamples,
        source: EvaluationFeatures,
        tally: Tally,
        refined: list[str],
        refiner: Refiner | None,
        pictured: set[int],
        single: ImageCounts | None,
        headline: str,
        title: str,
    ) -> list[Panel]:
        """Add this rank's counts to the tally, and those of the headline clusters on single images to `single`.

        Returns all ranks' panels, in the order of the images.
        """
        rank, ranks = self.accelerator.process_index, self.accelerator.num_processes
        mine = range(rank, len(samples), ranks)
        panels: dict[int, Panel] = {}
        try:
            with console.progress(title, len(mine)) as bar:
                wanted = range(len(samples)) if refiner is not None else pictured
                for seen in source.batches(mine, mirrored=self.config.eval.flip, images=wanted):
                    maps = predict_seen(self.config, self.segmenter, seen, self.clusters, self.more)
                    signed = None if seen.labels is None else signed_labels(seen.labels.to(self.accelerator.device))
                    counts = maps.counts(signed, tally.num_classes or 1)
                    for name, found in counts.items():
                        tally.add(name, found.sum(0))
                    if single is not None:
                        single.add(seen.ids, counts[headline])
                    shown = [place for place, i in enumerate(seen.ids) if i in pictured]
                    names = [name for name in counts if name not in self.more]
                    panels |= make_panels(samples, seen, shown, maps, names)
                    if refiner is not None:
                        images = seen.stacked().to(self.accelerator.device)
                        refiner.submit(seen.ids, images, {name: maps.log_probs(name) for name in refined}, signed)
                        self._add(tally, panels, refiner, everything=False)
                    bar.advance(len(seen.ids))
            if refiner is not None:
                console.say(f"{title}: waiting for the last images of the CRF")
                self._add(tally, panels, refiner, everything=True)
        finally:
            if refiner is not None:
                refiner.close()
        refined_beside(panels)
        if ranks > 1:
            panels = {i: panel for part in gather_object([panels]) for i, panel in part.items()}
        return [panels[i] for i in sorted(panels)]

    def _add(self, tally: Tally, panels: Mapping[int, Panel], refiner: Refiner, *, everything: bool) -> None:
        for i, name, label, pred in refiner.finished(everything):
            tally.add_map(name + CRF, pred, label)
            if i in panels and name not in self.more:
                panels[i].predictions[name + CRF] = as_ids(pred)
