"""Steps to be timed, each whole, from images or bank rows to the moved parameters: this package's, and the published.

Images, labels and bank are random: the time does not depend on what they show.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from stego_dist.engine.step import LossSettings, TrainStep, parameter_groups
from stego_dist.features.bank import Bank
from stego_dist.features.store import FeatureStore, ShardFeatures, write_manifest, write_shard
from stego_dist.losses.draws import draw_lines, draw_step
from stego_dist.losses.linear import count_labelled
from stego_dist.models.backbone import Backbone
from stego_dist.models.segmenter import Segmenter
from tests.benchmarks.published import PublishedStep, three_adams

SETTINGS = LossSettings((0.67, 0.25, 0.63), (0.5, 0.5, 0.6))
POINTS, NEGATIVES, DROPOUT, CODE, SHARDS = 11, 5, 0.1, 70, 4


@dataclass
class Shape:
    """What a step works on."""

    model: str
    weights: str
    size: int
    batch: int
    group: int
    classes: int
    samples: int
    lines: int | None
    device: torch.device

    def backbone(self) -> Backbone:
        options = {"img_size": self.size} if self.weights == "random" else {}
        return Backbone(self.model, weights=self.weights, options=options).to(self.device)

    def segmenter(self, dim: int) -> Segmenter:
        torch.manual_seed(0)
        return Segmenter(
            dim=dim, code_dim=CODE, projection="nonlinear", num_clusters=self.classes, num_classes=self.classes
        ).to(self.device)

    def images(self, seed: int) -> Tensor:
        """uint8 images of a batch, in pinned memory for a GPU."""
        rng = torch.Generator().manual_seed(seed)
        images = torch.randint(0, 256, (self.batch, 3, self.size, self.size), dtype=torch.uint8, generator=rng)
        return images.pin_memory() if self.device.type == "cuda" else images

    def labels(self, count: int) -> Tensor:
        rng = torch.Generator().manual_seed(9)
        return torch.randint(0, self.classes, (count, self.size, self.size), dtype=torch.uint8, generator=rng)


def write_store(folder: Path, shape: Shape, dim: int, grid: int) -> FeatureStore:
    """A feature store of random features."""
    rng = np.random.default_rng(0)
    each = -(-shape.samples // SHARDS)
    labels = shape.labels(each).numpy()
    for shard in range(SHARDS):
        feats = rng.standard_normal((each, dim, grid, grid), np.float32).astype(np.float16)
        features = ShardFeatures(np.zeros((each, dim), np.float32), np.arange(each), feats, labels)
        write_shard(folder, f"train-{shard}", features, {})
    write_manifest(folder, [f"train-{shard}" for shard in range(SHARDS)], {})
    return FeatureStore(folder, {}, "")


class Ours:
    """Steps of this package, online (from images) or from a bank."""

    def __init__(
        self, shape: Shape, backbone: Backbone, *, bank: Bank | None = None, half: bool = False, compiled: bool = False
    ) -> None:
        self.shape, self.backbone, self.bank, self.half = shape, backbone, bank, half
        segmenter = shape.segmenter(backbone.dim)
        self.step = TrainStep(segmenter, SETTINGS)
        self.optimiser = torch.optim.Adam(parameter_groups(segmenter, 5e-4, 5e-3))
        self.extract: Callable[[Tensor], Tensor] = backbone
        if compiled:
            self.step.compile(dynamic=False)
            self.extract = torch.compile(backbone, dynamic=False)
        self.number, self.waited, self.worked = 0, 0.0, 0.0
        self.images = shape.images(0), shape.images(1)
        self.labels = shape.labels(shape.batch).to(shape.device)

    def __call__(self) -> float:
        """One step; returns its loss."""
        shape, start = self.shape, time.perf_counter()
        if self.bank is not None:
            rng = np.random.default_rng(self.number)
            ids, others = rng.integers(0, shape.samples, (2, shape.batch))
            feats, feats_knn = self.bank.features(ids), self.bank.features(others)
            feats, feats_knn = (f.to(shape.device, non_blocking=True) for f in (feats, feats_knn))
            labels = self.bank.labels(ids).to(shape.device, non_blocking=True)
        else:
            images = [i.to(shape.device, non_blocking=True) for i in self.images]
            labels = self.labels
        ready = time.perf_counter()
        with torch.autocast(shape.device.type, torch.bfloat16, enabled=self.half):
            if self.bank is None:
                feats, feats_knn = self.extract(torch.cat(images)).chunk(2)
            loss = self.forward(feats, feats_knn, labels)
        loss.backward()
        self.optimiser.step()
        self.optimiser.zero_grad()
        self.number += 1
        value = float(loss.detach())
        self.waited, self.worked = self.waited + ready - start, self.worked + time.perf_counter() - ready
        return value

    def forward(self, feats: Tensor, feats_knn: Tensor, labels: Tensor) -> Tensor:
        shape, groups = self.shape, range(len(feats) // self.shape.group)
        draws = draw_step(
            seed=0, step=self.number, groups=groups, size=shape.group, points=POINTS, negatives=NEGATIVES,
            channels=feats.shape[1], dropout=DROPOUT,
        ).to(shape.device)  # fmt: skip
        lines = None
        if shape.lines is not None:
            drawn = draw_lines(
                seed=0, step=self.number, groups=groups, size=shape.group, count=shape.lines, height=shape.size,
                width=shape.size,
            )  # fmt: skip
            lines = drawn[0].to(shape.device), drawn[1].to(shape.device)
        loss, _ = self.step(feats, feats_knn, draws, labels, 1 / count_labelled(labels), lines)
        return loss


class Theirs:
    """The published step, with every label of the batch in one group as it is published."""

    def __init__(self, shape: Shape, *, tf32: bool = False) -> None:
        self.shape, self.tf32 = shape, tf32
        backbone = shape.backbone()
        segmenter = shape.segmenter(backbone.dim)
        self.step, self.optimisers = PublishedStep(segmenter, SETTINGS, backbone), three_adams(segmenter)
        self.images, self.dim, self.number = (shape.images(0), shape.images(1)), backbone.dim, 0
        self.labels = shape.labels(shape.batch).to(shape.device)

    def __call__(self) -> float:
        """One step; returns its loss."""
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = self.tf32
        shape = self.shape
        draws = draw_step(
            seed=0, step=self.number, groups=range(1), size=shape.batch, points=POINTS, negatives=NEGATIVES,
            channels=self.dim, dropout=DROPOUT,
        ).to(shape.device)  # fmt: skip
        loss = self.step.from_images(*(i.to(shape.device) for i in self.images), draws, self.labels)
        loss.backward()
        for optimiser in self.optimisers:
            optimiser.step()
            optimiser.zero_grad()
        self.number += 1
        value = float(loss.detach())
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        return value
