"""Evaluation: every image of a split counted once, at any number of processes; integers until the last division.

1. a rank takes every n-th image and computes flip-averaged codes;
2. predictions of clusters and linear probe, with and without CRF, are counted against the labels (int64);
3. counts are summed over ranks; the main process matches clusters to classes and computes the scores.

Without labels there are no scores, only the share of each cluster.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from stego_dist import console
from stego_dist.config import Config
from stego_dist.data.manifest import ShardSet
from stego_dist.data.samples import ShardSamples
from stego_dist.data.transforms import Resize
from stego_dist.engine.inputs import AUTOCAST
from stego_dist.engine.per_image import ImageCounts, evenly
from stego_dist.engine.predict import CLUSTERS, LINEAR, CrfPool, predict_maps
from stego_dist.engine.step import signed_labels
from stego_dist.errors import UserError
from stego_dist.metrics.confusion import Matrix, Scores, confusion, scores
from stego_dist.metrics.matching import Matching, match_clusters, match_published
from stego_dist.models.backbone import Backbone
from stego_dist.models.segmenter import Segmenter, flip_averaged_code


@dataclass(frozen=True)
class Panel:
    """What a picture of one image shows; arrays (H, W)."""

    name: str
    image: NDArray[np.uint8]
    label: NDArray[np.int16] | None
    predictions: dict[str, NDArray[np.int16]]
    rank: str = "spread"
    """Why it is shown: "best", "median" or "worst" of all images, or one of those that are spread over the split."""
    accuracy: float | None = None
    """Of the headline clusters on this image."""
    miou: float | None = None


@dataclass
class Evaluation:
    """What the main process gets."""

    results: dict[str, Any]
    panels: list[Panel] = field(default_factory=list)
    matchings: dict[str, Matching] = field(default_factory=dict)
    image_counts: dict[int, NDArray[np.int32]] = field(default_factory=dict)
    """Counts of the headline clusters on single images (engine/per_image.py)."""
    examples: dict[int, Panel] = field(default_factory=dict)
    """Images that show single clusters, by number; without labels (engine/gallery.py)."""


View = tuple[int, Tensor, Tensor | None]


class _Views(Dataset[View | UserError]):
    """Images and labels at the evaluation's size. An error of the user's comes as a value (see engine/feed.py)."""

    def __init__(self, samples: ShardSamples, ids: Sequence[int], resolution: int, resize: Resize) -> None:
        self.samples, self.ids, self.resolution, self.resize = samples, ids, resolution, resize

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, place: int) -> View | UserError:
        return self.__getitems__([place])[0]

    def __getitems__(self, places: list[int]) -> list[View | UserError]:
        """What the loader asks for: a batch at a time."""
        ids = [self.ids[place] for place in places]
        try:
            return [(i, *view) for i, view in zip(ids, self.samples.views(ids, self.resolution, self.resize))]
        except UserError as error:
            return [error]


def _collate(items: list[View | UserError]) -> tuple[list[int], Tensor, Tensor | None] | UserError:
    views = []
    for item in items:
        if isinstance(item, UserError):
            return item
        views.append(item)
    labels = [label for _, _, label in views if label is not None]
    return (
        [i for i, _, _ in views],
        torch.stack([image for _, image, _ in views]),
        torch.stack(labels) if labels else None,
    )


def evaluation_views(
    config: Config, samples: ShardSamples, ids: Sequence[int]
) -> Iterator[tuple[list[int], Tensor, Tensor | None]]:
    """Ids, uint8 images (B, 3, R, R) and uint8 labels (B, R, R) of `ids` in batches, at the evaluation's size.

    Read in worker processes. Raises UserError for unreadable samples.
    """
    views = _Views(samples, ids, config.eval.resolution, config.data.image_resize)
    for loaded in DataLoader(views, config.eval.batch_size, num_workers=config.data.workers, collate_fn=_collate):
        if isinstance(loaded, UserError):
            raise loaded
        yield loaded


def evaluate(
    config: Config,
    accelerator: Accelerator,
    segmenter: Segmenter,
    backbone: Backbone,
    *,
    clusters: tuple[str, ...] = CLUSTERS,
    title: str = "eval",
) -> Evaluation:
    """Evaluate on data.eval_split. `clusters`: which centres of the segmenter hold something ("kmeans", "learned").

    Every rank calls it; the full result is on the main process. Raises UserError for unreadable samples and a
    resolution that does not fit the backbone.
    """
    start = time.perf_counter()
    e = config.eval
    backbone.check_resolution("eval.resolution", e.resolution)
    shard_set = ShardSet.open(config.data.shards, config.data.storage)
    samples = ShardSamples(shard_set, config.data.eval_split)
    mine = range(accelerator.process_index, len(samples), accelerator.num_processes)
    names = [*clusters] + [LINEAR] * (segmenter.linear is not None)
    headline = e.clusters if e.clusters in clusters else clusters[0]
    refined = [] if not samples.split.labelled else _refined_names(e.crf, headline, names)
    tally = _Tally(segmenter, shard_set.num_classes if samples.split.labelled else None, accelerator.device)
    image_counts = ImageCounts(len(samples), tally.rows[headline], tally.num_classes)
    pictured = set(evenly(len(samples), e.panels))
    panels: dict[int, Panel] = {}
    pool = CrfPool(e.crf_workers or os.cpu_count() or 1) if refined else None
    dtype = AUTOCAST[config.train.precision]
    console.say(
        f"{title}: {len(samples)} images of {shard_set.root} ({samples.split.name}), {e.resolution} pixels"
        f"{', flip-averaged' if e.flip else ''}{', CRF on ' + ' and '.join(refined) if refined else ''}"
    )
    try:
        with console.progress(title, len(mine)) as bar:
            for ids, images, labels in evaluation_views(config, samples, mine):
                images = images.to(accelerator.device)
                with torch.autocast(images.device.type, dtype, enabled=dtype is not None):
                    code = flip_averaged_code(backbone, segmenter.head, images, e.flip)
                maps = predict_maps(segmenter, code, (e.resolution, e.resolution), clusters)
                signed = None if labels is None else signed_labels(labels.to(accelerator.device))
                winners = {name: maps.argmax(name) for name in names}
                for name, winner in winners.items():
                    tally.add(name, winner, signed)
                image_counts.add(ids, winners[headline], signed)
                if pool is not None and signed is not None:
                    for name in refined:
                        for image, log_probs, label in zip(images, maps.log_probs(name), signed):
                            pool.submit(name, image, log_probs, label)
                            tally.add_refined(pool.finished())
                for place, i in enumerate(ids):
                    if i in pictured:
                        panels[i] = make_panel(samples.name(i), images[place], signed, winners, place)
                bar.advance(len(ids))
        if pool is not None:
            tally.add_refined(pool.finished(everything=True))
    finally:
        if pool is not None:
            pool.close()
    counts = tally.summed(accelerator, names + [f"{name}+crf" for name in refined])
    if accelerator.num_processes > 1:
        panels = {i: panel for part in gather_object([panels]) for i, panel in part.items()}
    results = {
        "split": samples.split.name,
        "images": len(samples),
        "resolution": e.resolution,
        "flip": e.flip,
        "crf": e.crf,
        "headline_clusters": headline,
        "seconds": round(time.perf_counter() - start, 2),
    }
    shown = [panels[i] for i in sorted(panels)]
    evaluation = Evaluation(results, shown, image_counts=image_counts.gathered(accelerator))
    _score(evaluation, counts, shard_set if samples.split.labelled else None)
    return evaluation


def _refined_names(crf: str, headline: str, names: list[str]) -> list[str]:
    wanted = {"none": [], "cluster": [headline], "both": [headline, LINEAR]}[crf]
    return [name for name in wanted if name in names]


def make_panel(name: str, image: Tensor, labels: Tensor | None, winners: dict[str, Tensor], place: int) -> Panel:
    """A panel of the uint8 image (3, H, W) that has this place in a batch of labels and predictions (B, H, W)."""
    predictions = {kind: winner[place].to(torch.int16).cpu().numpy() for kind, winner in winners.items()}
    label = None if labels is None else labels[place].cpu().numpy()
    return Panel(name, image.permute(1, 2, 0).cpu().numpy(), label, predictions)


class _Tally:
    """Counts int64 of a rank: predicted id by class, or by nothing where there are no labels."""

    def __init__(self, segmenter: Segmenter, num_classes: int | None, device: torch.device) -> None:
        self.num_classes, self.device = num_classes, device
        self.rows = dict.fromkeys(CLUSTERS, segmenter.num_clusters)
        if segmenter.linear is not None:
            self.rows[LINEAR] = segmenter.linear.conv.out_channels
        self.counts: dict[str, Tensor] = {}

    def add(self, name: str, pred: Tensor, label: Tensor | None) -> None:
        columns = self.num_classes or 1
        label = torch.zeros_like(pred) if label is None or not self.num_classes else label
        counted = confusion(pred.to(self.device), label.to(self.device), self._rows(name), columns)
        self.counts[name] = self.counts.get(name, torch.zeros_like(counted)) + counted

    def add_refined(self, finished: list[tuple[str, Tensor, Tensor]]) -> None:
        for name, label, pred in finished:
            self.add(f"{name}+crf", pred, label)

    def summed(self, accelerator: Accelerator, names: list[str]) -> dict[str, Matrix]:
        """Over all ranks; a rank without images adds zeros."""
        empty = {name: torch.zeros(self._rows(name), self.num_classes or 1, dtype=torch.int64) for name in names}
        total = {}
        for name in names:
            mine = self.counts.get(name, empty[name]).to(self.device)
            total[name] = accelerator.reduce(mine, "sum").cpu().numpy()
        return total

    def _rows(self, name: str) -> int:
        return self.rows[name.removesuffix("+crf")]


def _score(evaluation: Evaluation, counts: dict[str, Matrix], labelled: ShardSet | None) -> None:
    """Fill in results: scores by name with labels, shares of clusters without."""
    results = evaluation.results
    results["labelled"] = labelled is not None
    results["largest_cluster"] = {
        name: float(matrix.sum(1).max() / max(1, matrix.sum())) for name, matrix in counts.items() if name in CLUSTERS
    }
    if labelled is None:
        results["cluster_shares"] = {
            name: [float(v) for v in matrix[:, 0] / max(1, matrix.sum())] for name, matrix in counts.items()
        }
        return
    classes = labelled.classes
    results["classes"] = classes
    results["measures"] = {}
    for name, matrix in counts.items():
        if name.removesuffix("+crf") == LINEAR:
            results["measures"][name] = _entry(scores(matrix), classes, matrix)
            continue
        matched = match_clusters(matrix)
        evaluation.matchings[name] = matched
        entry = _entry(scores(matched.matrix), classes, matched.matrix)
        entry["cluster_to_class"] = list(matched.cluster_to_class)
        if len(matrix) > len(classes):
            published = scores(match_published(matrix).matrix)
            entry["published_counting"] = {"accuracy": published.accuracy, "miou": published.miou}
        results["measures"][name] = entry
    absent = next(iter(counts.values())).sum(0) == 0
    results["classes_without_pixels"] = [name for name, gone in zip(classes, absent) if gone]


def _entry(result: Scores, classes: list[str], matrix: Matrix) -> dict[str, Any]:
    return {
        "accuracy": result.accuracy,
        "miou": result.miou,
        "iou": dict(zip(classes, result.iou)),
        "confusion": matrix.tolist(),
    }
