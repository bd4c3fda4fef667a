"""What a fit will do: settings from the folder, the machine and what was asked for; time and bytes before it begins.

1. whole images where there are enough of them, else five crops of each;
2. as much detail as the images have, up to RESOLUTION;
3. features are computed once and kept where the disk holds them, else computed in every step;
4. where there is a time limit, as many steps and then as many images as it allows.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from stego_dist.config import Config, config_of_tree
from stego_dist.data.crops import Crops
from stego_dist.errors import ConfigError, UserError
from stego_dist.fitting.folder import SHOWN, TRAIN, Folder
from stego_dist.jobs.plan import EVALUATED, Facts, Figures, estimate

RESOLUTION = 448
"""Pixels of the shorter side of a whole image."""
FEW = 16
"""Images below which each is cut into five crops."""
STEPS, FEWEST_STEPS = 1000, 100
"""Training steps, and those of the shortest fit."""
FEWEST_IMAGES = 16
"""Images that a time limit leaves at least."""
SHOWN_IMAGES = 96
"""Images that the report is made of."""
PREVIEW_IMAGES, PREVIEW_STEPS, PREVIEW_SHOWN = 64, 150, 16
MAX_SIDE = 1024
"""Pixels of the longer side of packed images."""
CLUSTERS = 20
"""Clusters that the learned probe has until their number is chosen."""
BANK_SHARE = 0.5
"""Part of the free disk that kept features may take."""
START_SECONDS, WORKERS_SECONDS = 25.0, 10.0
"""Starts, clustering and the report, about, and starts of workers where there are any; measured on two cores."""
ALONE = 500
"""Images below which starting Ray and its workers would take about as long as their work."""
MARGIN_BYTES = 2e9
"""Of the disk, that stay free."""
Features = Literal["bank", "online"]


@dataclass(frozen=True)
class Request:
    """What a user asks for."""

    classes: int | None = None
    """Number of clusters; None: chosen from the codes."""
    backbone: str | None = None
    weights: str = "timm"
    stride: int | None = None
    resolution: int | None = None
    crops: Literal["auto", "none", "five"] = "auto"
    seconds: float | None = None
    """That it may take about."""
    images: int | None = None
    """That are trained on, evenly spread."""
    steps: int | None = None
    preview: bool = False
    seed: int = 0
    overrides: tuple[str, ...] = ()


@dataclass(frozen=True)
class Choice:
    """What will be done."""

    images: int
    samples: int
    """Crops, or as many as there are images."""
    crops: Crops
    resolution: int
    steps: int
    features: Features
    shown: int
    seconds: float
    """That it is estimated to take."""
    bytes: float
    """That it writes, about."""
    stages: dict[str, float]
    """Seconds of each stage."""

    @property
    def alone(self) -> bool:
        """Whether this process does the work of workers."""
        return self.samples + self.shown < ALONE


Measure = Callable[[Config, Crops], tuple[Facts, Figures]]
"""Facts of a configuration, and what this machine does in a second."""


def plan_fit(folder: Folder, request: Request, out: Path, measure: Measure) -> Choice:
    """Choose; `measure` is called once.

    Raises UserError when not even the smallest choice fits on the disk, ConfigError for what was asked in vain.
    """
    if request.images is not None and request.images < 1:
        raise ConfigError(f"--images must be at least 1, not {request.images}")
    first = _first(folder, request)
    facts, figures = measure(fit_config(folder, request, first, out), first.crops)

    def estimated(images: int, steps: int) -> Choice:
        return _estimated(replace(first, images=images, steps=steps), facts, figures)

    found = estimated(first.images, first.steps)
    if request.seconds is not None and found.seconds > request.seconds:
        found = _within(request.seconds, first, estimated)
    if found.bytes + MARGIN_BYTES > figures.disk_free:
        raise UserError(
            f"this needs about {found.bytes / 1e9:.1f} GB, and {figures.disk_free / 1e9:.1f} GB are free: free some, "
            "write elsewhere (--out DIR), or take fewer images (--images N)"
        )
    return found


def _first(folder: Folder, request: Request) -> Choice:
    """Without a look at the time."""
    images = min(len(folder), request.images or len(folder), *([PREVIEW_IMAGES] if request.preview else []))
    crops: Crops = ("five" if images < FEW else "none") if request.crops == "auto" else request.crops
    if images == 1 and crops == "none":
        raise UserError(
            f"{folder.root} has one image to learn from: training compares images, so it has to be cut into crops "
            "(leave out --crops none), or give more images"
        )
    whole = (
        RESOLUTION if crops == "none" and folder.shorter > RESOLUTION // 2 and not request.preview else RESOLUTION // 2
    )
    steps = request.steps or (PREVIEW_STEPS if request.preview else STEPS)
    shown = min(len(folder), PREVIEW_SHOWN if request.preview else SHOWN_IMAGES)
    samples = images if crops == "none" else 5 * images
    return Choice(images, samples, crops, request.resolution or whole, steps, "bank", shown, 0, 0, {})


def _estimated(choice: Choice, facts: Facts, figures: Figures) -> Choice:
    workers = torch.cuda.device_count() or os.cpu_count() or 1

    def at(features: Features) -> dict[str, Any]:
        return estimate(choice.images, replace(facts, steps=choice.steps, features=features), figures, workers)

    choice = replace(choice, samples=choice.images * facts.crops)
    features: Features = "bank"
    found = at(features)
    if found["stages"]["bank"]["bytes"] > BANK_SHARE * figures.disk_free:
        features = "online"
        found = at(features)
    starts = START_SECONDS + (0.0 if choice.alone else WORKERS_SECONDS)
    shown = choice.shown * facts.crops / EVALUATED
    kept = found["stages"]["evaluation bank"]
    stages = {name: found["stages"][name]["seconds"] for name in found["total"]["of"]}
    stages.pop("evaluation bank", None)
    stages |= {"report's images": shown * kept["seconds"], "starts, clusters, report": starts}
    size = found["total"]["bytes"] - (1 - shown) * (kept["bytes"] if features == "bank" else 0)
    return replace(choice, features=features, seconds=sum(stages.values()), bytes=size, stages=stages)


def _within(seconds: float, first: Choice, estimated: Callable[[int, int], Choice]) -> Choice:
    """The most steps with a fair number of images, then the most images, that a time allows; or the least of both."""
    steps, enough = first.steps, min(first.images, 8 * FEWEST_IMAGES)
    while steps > FEWEST_STEPS and estimated(enough, steps).seconds > seconds:
        steps = max(FEWEST_STEPS, math.floor(steps * 0.7))
    low, high = min(first.images, FEWEST_IMAGES), first.images
    while low < high:
        middle = -(-(low + high) // 2)
        low, high = (middle, high) if estimated(middle, steps).seconds <= seconds else (low, middle - 1)
    return estimated(low, steps)


def fit_config(folder: Folder, request: Request, choice: Choice, out: Path) -> Config:
    """The configuration of a choice. Raises ConfigError."""
    fast = torch.cuda.is_available()
    backbone: dict[str, Any] = {
        "name": request.backbone or ("vit_small_patch8_224.dino" if fast else "vit_small_patch16_224.dino"),
        "weights": str(Path(request.weights).resolve()) if Path(request.weights).is_file() else request.weights,
    }
    if request.stride is not None:
        backbone["stride"] = request.stride
    neighbours = max(2, min(30, choice.samples))
    tree = {
        "name": folder.root.resolve().name or "images",
        "seed": request.seed,
        "run_dir": str(out),
        "data": {
            "shards": str(out / "shards"), "train_split": TRAIN, "eval_split": SHOWN, "resolution": choice.resolution,
        },
        "backbone": backbone,
        "features": {"dir": str(out / "features"), "workers": 1 if choice.alone else None},
        "knn": {"k": neighbours, "positives": min(7, neighbours - 1)},
        "train": {"steps": choice.steps, "features": choice.features, "panels": 0},
        "clusters": {"count": request.classes or CLUSTERS},
        "eval": {"resolution": choice.resolution, "crop": "none", "panels": 12},
    }  # fmt: skip
    return config_of_tree(tree, request.overrides, "fit")
