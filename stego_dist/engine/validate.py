"""Validation while training: a few images, always the same ones; seconds, not minutes.

1. once: a rank takes every n-th image of the evaluated split and keeps the features of it and of its mirror image
   (float16);
2. each time: codes by the head as it is, counts of learned clusters and linear probe against labels, summed over ranks;
   and the label-free score of the learned clusters on training images (engine/label_free.py);
3. out: numbers named val/…, and panels of some of the images.

Nothing here draws at random or changes what training sees.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

from stego_dist import console
from stego_dist.config import Config
from stego_dist.engine.inputs import training_precision
from stego_dist.engine.label_free import LabelFree
from stego_dist.engine.opened import Opened
from stego_dist.engine.panel import Panel, make_panels
from stego_dist.engine.per_image import evenly
from stego_dist.engine.predict import LINEAR, predict_maps
from stego_dist.engine.seen import EvaluationFeatures, Seen
from stego_dist.engine.step import signed_labels
from stego_dist.errors import ConfigError
from stego_dist.metrics.cells import LabelCells, cut_labels
from stego_dist.metrics.confusion import scores
from stego_dist.metrics.matching import Matching, match_clusters
from stego_dist.models.segmenter import Segmenter, averaged_code

LEARNED = "learned"


@dataclass(frozen=True)
class Validation:
    """What a validation found; the same numbers on all ranks."""

    numbers: dict[str, float]
    panels: list[Panel] = field(default_factory=list)
    """On all ranks."""
    matchings: dict[str, Matching] = field(default_factory=dict)


@dataclass(frozen=True)
class _Kept:
    """A batch that was read, its features float16 on the host."""

    seen: Seen
    labels: Tensor | None
    """int16 (B, R, R), −1 ignored."""
    cells: LabelCells | None
    """The same cut at the features' positions."""


def make_validator(config: Config, accelerator: Accelerator, segmenter: Segmenter, opened: Opened) -> Validator | None:
    """The validator of a training run, or None where validation is off.

    Raises UserError where train.select can't be had.
    """
    t, shard_set = config.train, opened.shard_set
    if not t.validation_interval:
        return None
    validator = Validator(config, accelerator, segmenter, opened)
    if validator.samples is None:
        console.say(f"{shard_set.root} has no split {config.data.eval_split}: validation is the label-free score alone")
    labelled = validator.samples is not None and validator.samples.split.labelled
    if t.select == "miou" and not labelled:
        raise ConfigError(
            f"train.select=miou needs labels, which split {config.data.eval_split} of {shard_set.root} has not; "
            "use label_free or last"
        )
    return validator


class Validator:
    """Validates a segmenter as it stands."""

    def __init__(self, config: Config, accelerator: Accelerator, segmenter: Segmenter, opened: Opened) -> None:
        self.config, self.accelerator, self.segmenter = config, accelerator, segmenter
        opened.backbone.check_resolution("eval.resolution", config.eval.resolution)
        self.num_classes = opened.shard_set.num_classes
        self.samples = opened.evaluated if config.data.eval_split in opened.shard_set.splits else None
        self.ids = [] if self.samples is None else evenly(len(self.samples), config.train.validate_images)
        self.pictured = {self.ids[place] for place in evenly(len(self.ids), config.train.panels)}
        self.score = LabelFree(config, accelerator, opened)
        self.source = None
        if self.samples is not None:
            self.source = EvaluationFeatures(config, self.samples, opened.backbone, accelerator.device, opened=opened)
        self._kept: list[_Kept | None] = []

    @torch.no_grad()
    def __call__(self, check: Callable[[], None] = lambda: None) -> Validation:
        """Validate. All ranks call it; each calls `check` equally often, which may raise to give up."""
        start = time.perf_counter()
        if not self._kept:
            self._kept = self._read(check)
        clusters, device = self.segmenter.num_clusters, self.accelerator.device
        counts: dict[str, Tensor] = {}
        if self.samples is not None and self.samples.split.labelled and self.num_classes:
            counts[LEARNED] = torch.zeros(clusters, self.num_classes, dtype=torch.int64, device=device)
            if self.segmenter.linear is not None:
                counts[LINEAR] = counts[LEARNED].new_zeros(self.num_classes, self.num_classes)
        panels: dict[int, Panel] = {}
        for kept in self._kept:
            check()
            if kept is None:
                continue
            seen, code = kept.seen, self._code(kept.seen.feats)
            maps = predict_maps(self.segmenter, code, seen.size, (LEARNED,), padded=seen.padded)
            if kept.labels is not None and self.num_classes:
                for name, found in maps.counts(kept.labels, self.num_classes, kept.cells).items():
                    counts[name] += found.sum(0)
            shown = [place for place, i in enumerate(seen.ids) if i in self.pictured]
            assert self.samples is not None
            panels |= make_panels(self.samples, seen, shown, maps, list(maps.scores))
        counts = {name: self._sum(count) for name, count in counts.items()}
        if self.accelerator.num_processes > 1 and self.pictured:
            panels = {i: panel for part in gather_object([panels]) for i, panel in part.items()}
        validation = Validation(self.score(self.segmenter, LEARNED), [panels[i] for i in sorted(panels)])
        for name, count in counts.items():
            matrix = count.cpu().numpy()
            if name == LEARNED:
                validation.matchings[name] = match_clusters(matrix)
                matrix = validation.matchings[name].matrix
            score = scores(matrix)
            if score.miou is not None and score.accuracy is not None:
                validation.numbers.update({f"val/miou_{name}": score.miou, f"val/accuracy_{name}": score.accuracy})
        validation.numbers["val/seconds"] = time.perf_counter() - start
        return validation

    def _read(self, check: Callable[[], None]) -> list[_Kept | None]:
        """The share of this rank, as many batches as the longest share has."""
        ranks, size = self.accelerator.num_processes, self.config.eval.batch_size
        read: list[_Kept | None] = []
        mine = self.ids[self.accelerator.process_index :: ranks]
        if self.source is None:
            return read
        batches = self.source.batches(mine, mirrored=True, images=self.pictured)
        for _ in range(0, -(-len(self.ids) // ranks), size):
            check()
            seen = next(batches, None)
            if seen is None:
                read.append(None)
                continue
            labels = cells = None
            if seen.labels is not None and self.num_classes:
                labels = signed_labels(seen.labels).to(self.accelerator.device)
                cells = cut_labels(labels, self.num_classes, (seen.feats.shape[2], seen.feats.shape[3]), seen.padded)
            read.append(_Kept(replace(seen, feats=seen.feats.half().cpu()), labels, cells))
        return read

    def _code(self, feats: Tensor) -> Tensor:
        """Codes float32 (B, D, h, w), averaged with those of the mirror images where evaluation does so."""
        device, flip = self.accelerator.device, self.config.eval.flip
        with training_precision(self.config, device):
            feats = feats.to(device).float()
            return averaged_code(self.segmenter.head, feats if flip else feats[: len(feats) // 2], flip)

    def _sum(self, value: Tensor) -> Tensor:
        summed: Tensor = self.accelerator.reduce(value, "sum")
        return summed
