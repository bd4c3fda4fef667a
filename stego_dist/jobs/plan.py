"""Bytes, hours and memory of every stage at a number of images, before anything is begun. Pure arithmetic.

In: what the configuration fixes (`Facts`), what one worker does in a second (`Figures`, measured by jobs/probes.py or
given), images, workers. Out: a dictionary as `stego-dist plan --json` prints it.

Workers are taken to share all work but training evenly, and reading, computing and writing not to overlap. A rate that
was measured alone is somewhat higher than what each of several workers on one machine reaches. The start of workers,
about ten seconds a job, is not counted.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from stego_dist.config import Config
from stego_dist.engine.inputs import evaluated_views
from stego_dist.jobs.advice import advice
from stego_dist.knn.cost import Code, Cost, Rates, choose, exact_cost, ivf_cost

PROCESS_BYTES = 1e9
"""Resident memory of a process that has loaded torch and the project, before it has read anything."""
INDEX_BYTES = 42
"""Memory of a sample's offsets, source and crop number, in every process that reads shards."""
SOURCE_BYTES, ORDER_BYTES = 8, 8
"""A sample's source image, in a process that searches; its place in the epoch's order, in one that trains."""
ACTIVATIONS = 24
"""Floats alive at once in a frozen backbone, for each float of its output (measured with ViTs on a CPU)."""
EVALUATED = 1000
"""Images whose evaluation is estimated, without CRF, and whose features are kept for it."""
EVALUATED_VIEWS = 2
"""Straight and mirrored."""
TRAINING_MAPS = 7
"""Maps alive in a training step for each of an anchor or neighbour (measured with ViT-S/8 on a CPU)."""
LABEL_BYTES = 48 * 2**20
"""What the linear probe's loss holds at a time, whatever the batch (losses/linear.py)."""


@dataclass(frozen=True)
class Figures:
    """What one worker does, and what it has; all can be given by `--rate NAME=VALUE`."""

    pack: float
    """Images/s that are decoded, cropped and encoded."""
    sample_bytes: float
    """Bytes of a packed crop with its label."""
    embed: float
    """Crops/s that are decoded and go through the backbone."""
    train: float
    """Groups (loss.group_size images and their neighbours) a second that the head is trained on, features given."""
    knn_flops: float
    """FLOP/s of the exact search."""
    knn_matmul_flops: float
    """FLOP/s of k-means and of finding cells."""
    knn_scan_flops: float
    """FLOP/s of scanning the cells of an inverted file."""
    knn_query_seconds: float
    """Seconds a query takes besides: rescoring, order."""
    disk_read: float
    """Bytes/s."""
    disk_write: float
    """Bytes/s."""
    disk_free: float
    """Bytes free where features.dir lies."""
    memory: float
    """Bytes of memory of a worker."""

    @property
    def knn(self) -> Rates:
        """The rates of the search."""
        flops = self.knn_flops, self.knn_matmul_flops, self.knn_scan_flops
        return Rates(*flops, self.knn_query_seconds, self.disk_read)


@dataclass(frozen=True)
class Facts:
    """What the configuration and the shard set fix."""

    dim: int
    grid: int
    """Side of the feature map."""
    resolution: int
    crops: int
    """Of an image."""
    parameters: int
    """Of the backbone."""
    embed_batch: int
    descriptor_bytes: int
    """Of a number of a global descriptor."""
    k: int
    knn_memory: float
    """Bytes that a worker's search may hold."""
    knn_method: str
    excludes_same_image: bool
    """Whether the search knows the source image of every crop."""
    code: Code
    """How an inverted file keeps descriptors."""
    eval_resolution: int
    keeps_evaluated: bool
    """Whether the bank holds what evaluation looks at."""
    steps: int
    batch: int
    group: int
    features: str
    """train.features: what the total counts."""
    label_classes: int
    """Classes of the linear probe; 0 without labels."""
    accumulate: int
    """Parts of a process's share of the batch."""

    @property
    def crop_features(self) -> int:
        """Numbers of a crop's dense features."""
        return self.dim * self.grid**2

    @property
    def bank_bytes(self) -> int:
        """Of a crop, with its label."""
        return 2 * self.crop_features + (self.resolution**2 if self.label_classes else 0)

    @property
    def evaluated_bytes(self) -> int:
        """Kept of an evaluated image: its views' features, and its label."""
        if not self.keeps_evaluated:
            return 0
        grid = self.eval_resolution * self.grid // self.resolution
        label = self.eval_resolution**2 if self.label_classes else 0
        return 2 * EVALUATED_VIEWS * self.dim * grid**2 + label


def facts_of(config: Config, *, dim: int, stride: int, parameters: int, crops: int, classes: int) -> Facts:
    """Facts of a configuration, its backbone's width, stride and size, and its data's crops and labelled classes."""
    return Facts(
        dim=dim,
        grid=config.data.resolution // stride,
        resolution=config.data.resolution,
        crops=crops,
        parameters=parameters,
        embed_batch=config.features.batch_size,
        descriptor_bytes=2 if config.features.descriptors == "float16" else 4,
        k=config.knn.k,
        knn_memory=config.knn.memory_gb * 1e9,
        knn_method=config.knn.method,
        excludes_same_image=config.knn.exclude_same_image,
        code=config.knn.ivf_code,
        eval_resolution=config.eval.resolution,
        keeps_evaluated=bool(evaluated_views(config)),
        steps=config.train.steps,
        batch=config.train.batch_size,
        group=config.loss.group_size,
        features=config.train.features,
        label_classes=classes,
        accumulate=config.train.accumulate,
    )


def estimate(images: int, facts: Facts, figures: Figures, workers: int) -> dict[str, Any]:
    """Every stage at a number of images: seconds, bytes on disk, memory per worker; and what to know about it."""
    found = _estimate(images, facts, figures, workers)

    def total(others: int) -> float:
        return float(_estimate(images, facts, figures, others)["total"]["seconds"])

    return {**found, "notes": list(advice(found, facts, figures, total))}


def _estimate(images: int, facts: Facts, figures: Figures, workers: int) -> dict[str, Any]:
    n, f = images * facts.crops, figures
    stored = facts.descriptor_bytes * facts.dim * n
    stages = {
        "shards": _stage(
            images / f.pack / workers + n * f.sample_bytes / f.disk_write / workers, n * f.sample_bytes, PROCESS_BYTES
        ),
        "embedding": _stage(
            n / f.embed / workers + stored / f.disk_write / workers,
            stored,
            embed_memory(facts) + INDEX_BYTES * n,
        ),
        "bank": _stage(facts.bank_bytes * n / f.disk_write / workers, facts.bank_bytes * n, embed_memory(facts)),
    }
    exact, ivf = searches(n, facts, f, workers)
    for name, cost in (("knn exact", exact), ("knn ivf", ivf)):
        memory = PROCESS_BYTES + (SOURCE_BYTES * n if facts.excludes_same_image else 0) + cost.memory_per_worker
        stages[name] = _stage(cost.seconds, cost.table_bytes, memory)
    for name in ("online", "bank"):
        stages[f"training {name}"] = _training(n, facts, f, workers, name)
    scale = (facts.eval_resolution / facts.resolution) ** 2
    forwards, kept = EVALUATED * EVALUATED_VIEWS * scale / f.embed / workers, EVALUATED * facts.evaluated_bytes
    stages["evaluation"] = _stage(forwards, 0, embed_memory(facts, scale))
    stages["evaluation bank"] = _stage(
        forwards + kept / f.disk_write / workers if kept else 0, kept, embed_memory(facts, scale) if kept else 0
    )
    method, why = choose(exact, ivf)
    if facts.knn_method != "auto":
        method, why = ("ivf" if facts.knn_method == "ivf" else "exact"), f"knn.method={facts.knn_method}"
    chosen = exact if method == "exact" else ivf
    banks = ["bank", *(["evaluation bank"] if facts.keeps_evaluated else [])]
    counted = ["shards", "embedding", *(banks if facts.features == "bank" else []), f"knn {method}"]
    counted.append(f"training {facts.features}")
    parts = [stages[name] for name in counted]
    total = _stage(
        sum(part["seconds"] for part in parts),
        sum(part["bytes"] for part in parts),
        max(part["memory_per_worker"] for part in parts),
    )
    return {
        "images": images,
        "crops": n,
        "workers": workers,
        "stages": stages,
        "total": {**total, "of": counted},
        "knn": {
            "method": method,
            "why": why,
            "index_bytes": chosen.index_bytes,
            "exact": {"phases": exact.phases, "resident": exact.fits},
            "ivf": {"phases": ivf.phases, "code": facts.code, "cells": ivf.cells, "fits": ivf.fits},
        },
    }


def searches(n: int, facts: Facts, figures: Figures, workers: int) -> tuple[Cost, Cost]:
    """The exact search of n descriptors, and the inverted file with the configuration's code."""
    known: dict[str, Any] = {
        "k": facts.k, "workers": workers, "rates": figures.knn, "memory": facts.knn_memory,
        "itemsize": facts.descriptor_bytes,
    }  # fmt: skip
    return exact_cost(n, facts.dim, **known), ivf_cost(n, facts.dim, code=facts.code, **known)


def embed_memory(facts: Facts, scale: float = 1.0) -> float:
    """Bytes of a worker that embeds, without the offsets of the shards; `scale`: pixels of an image for training's."""
    image = 3 * facts.resolution**2 * scale
    each = 5 * image + 4 * ACTIVATIONS * facts.crop_features * scale
    return PROCESS_BYTES + 4 * facts.parameters + facts.embed_batch * each


def train_memory(facts: Facts, images: int) -> float:
    """Bytes of a process that trains on `images` of a batch, without offsets and backbone."""
    at_once = math.ceil(images / facts.accumulate)
    maps = 4 * 2 * at_once * TRAINING_MAPS * facts.crop_features
    return PROCESS_BYTES + maps + (at_once * facts.resolution**2 + LABEL_BYTES if facts.label_classes else 0)


def sharing(facts: Facts, workers: int) -> int:
    """Processes that can train: the most up to `workers` that share the groups of a batch evenly."""
    groups = max(1, facts.batch // facts.group)
    return max(w for w in range(1, min(workers, groups) + 1) if groups % w == 0)


def _stage(seconds: float, size: float, memory: float) -> dict[str, float]:
    return {"seconds": seconds, "bytes": size, "memory_per_worker": memory}


def _training(n: int, facts: Facts, figures: Figures, workers: int, features: str) -> dict[str, float]:
    processes = sharing(facts, workers)
    images = facts.batch / processes
    seconds = images / facts.group / figures.train
    memory = train_memory(facts, math.ceil(images)) + (INDEX_BYTES + ORDER_BYTES) * n
    if features == "online":
        seconds += 2 * images / figures.embed
        memory += embed_memory(facts) - PROCESS_BYTES
    else:
        read = 2 * images * 2 * facts.crop_features + (images * facts.resolution**2 if facts.label_classes else 0)
        seconds += read / figures.disk_read
    return _stage(seconds * facts.steps, 0, memory)


def as_json(figures: Figures, origins: dict[str, str], facts: Facts, sizes: list[dict[str, Any]]) -> dict[str, Any]:
    """What `--json` prints."""
    values = {name: {"value": value, "origin": origins[name]} for name, value in asdict(figures).items()}
    return {"format": "stego_dist.plan/1", "figures": values, "facts": asdict(facts), "sizes": sizes}
