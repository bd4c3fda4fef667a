"""What a trained head must beat, by the same evaluator: frozen features with k-means, and probes trained on them.

1. names → what they stand for; unknown names are refused before anything runs;
2. each: its network and features of training images (from the bank where it is the run's own), clusters by k-means,
   the cluster probe by SGD and a linear probe trained as the run's own are, then engine/evaluate.py;
3. out: results by title, and the reasons of those that could not be had (weights that are not there).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

from stego_dist import console
from stego_dist.config import Config
from stego_dist.data.manifest import ShardSet
from stego_dist.data.samples import ShardSamples
from stego_dist.engine.clusters import draw_codes, find_clusters
from stego_dist.engine.evaluate import evaluate
from stego_dist.engine.frozen import FrozenFeatures
from stego_dist.engine.inputs import cluster_count, features_fingerprint, make_backbone
from stego_dist.engine.predict import CLUSTERS
from stego_dist.engine.probing import share, train_probes
from stego_dist.engine.reduction import draw_projection, fit_pca
from stego_dist.engine.setup import on_main_process
from stego_dist.engine.supply import open_bank
from stego_dist.errors import ConfigError, UserError
from stego_dist.models.backbone import Backbone
from stego_dist.models.picie import Picie
from stego_dist.models.segmenter import Segmenter

RAW = "raw"
REDUCED = {"pca": "PCA of raw features", "random-projection": "random projection of raw features"}
"""Raw features reduced to the width of the code."""
OWN = {RAW: "raw features", **REDUCED}
"""Names that take the run's own backbone, and their titles."""
NETWORKS = {
    "dino-vits8": ("DINO ViT-S/8", "vit_small_patch8_224.dino"),
    "dino-vitb8": ("DINO ViT-B/8", "vit_base_patch8_224.dino"),
    "resnet50": ("ResNet-50, ImageNet labels", "resnet50.tv_in1k"),
}
"""Names of networks, their titles and timm's ids."""
FILES = {"mocov2-resnet50": "MoCo v2 ResNet-50", "picie": "PiCIE"}
"""Names of networks that come from a file, and their titles."""
WORDS = {"kmeans": "k-means", "learned": "cluster probe by SGD", "linear": "linear probe (labels)"}
"""What the measures of a baseline are."""


@dataclass(frozen=True)
class Baseline:
    """One of them. `name`: as it was asked for, NAME or NAME:ARGUMENT."""

    name: str

    @property
    def kind(self) -> str:
        """NAME."""
        return self.name.partition(":")[0]

    @property
    def argument(self) -> str:
        """ARGUMENT, or ""."""
        return self.name.partition(":")[2]

    @property
    def title(self) -> str:
        """For tables."""
        known = {**OWN, **{name: title for name, (title, _) in NETWORKS.items()}, **FILES, "random": "random network"}
        return known.get(self.kind, self.argument)

    def network(self, config: Config, own: Backbone) -> Backbone:
        """Its network. Raises UserError: weights that can't be had, a resolution that does not fit."""
        if self.kind in REDUCED and config.head.code_dim > own.dim:
            raise UserError(f"head.code_dim: features of width {own.dim} can't be reduced to {config.head.code_dim}")
        if self.kind in OWN:
            return own
        if self.kind == "random":
            random = config.backbone.model_copy(update={"weights": "random"})
            network = make_backbone(config.model_copy(update={"backbone": random}))
        elif self.kind == "picie":
            network = Picie(Path(self.argument))
        elif self.kind == "mocov2-resnet50":
            network = Backbone("resnet50", weights=self.argument)
        elif self.kind == "timm":
            name, _, weights = self.argument.partition("@")
            network = Backbone(name, weights=weights or "timm")
        else:
            network = Backbone(NETWORKS[self.kind][1])
        network.check_resolution("data.resolution", config.data.resolution)
        network.check_resolution("eval.resolution", config.eval.resolution)
        return network


def parse_baselines(names: Sequence[str]) -> list[Baseline]:
    """The baselines of these names, each once. Raises ConfigError naming those that don't exist."""
    found = [Baseline(name) for name in dict.fromkeys(names)]
    for baseline in found:
        plain = baseline.kind in (*OWN, *NETWORKS, "random")
        if bool(baseline.argument) == plain or not (plain or baseline.kind in (*FILES, "timm")):
            known = ", ".join([*OWN, "random", *NETWORKS, *(f"{name}:FILE" for name in FILES), "timm:ID[@WEIGHTS]"])
            raise ConfigError(f"--baseline: there is no {baseline.name!r}; there are {known}")
    return found


def run_baselines(
    config: Config, accelerator: Accelerator, own: Backbone, baselines: Sequence[Baseline], *, probes: bool = True
) -> tuple[dict[str, Any], dict[str, str]]:
    """Results by title, and the reasons of those that can't be had by name; all ranks call it.

    own: the run's backbone; probes: train them too, or look for clusters by k-means alone.
    """
    results: dict[str, Any] = {}
    unavailable: dict[str, str] = {}
    shared: FrozenFeatures | None = None
    for baseline in baselines:
        try:
            network = _network(baseline, config, accelerator, own)
            if network is own:
                frozen = shared = shared or _frozen(config, accelerator, own, banked=True)
            else:
                frozen = _frozen(config, accelerator, network.to(accelerator.device), banked=False)
            title = baseline.title if baseline.title not in results else f"{baseline.title} ({baseline.argument})"
            results[title] = _evaluated(baseline, title, config, accelerator, frozen, probes)
        except _Unavailable as error:
            console.warn(f"baseline {baseline.name} is left out: {error}")
            unavailable[baseline.name] = str(error)
    return results, unavailable


class _Unavailable(UserError):
    """A baseline can't be had; raised on all ranks at once."""


def _network(baseline: Baseline, config: Config, accelerator: Accelerator, own: Backbone) -> Backbone:
    network, reason = own, ""
    try:
        network = baseline.network(config, own)
    except UserError as error:
        reason = str(error)
    reasons = gather_object([reason]) if accelerator.num_processes > 1 else [reason]
    if any(reasons):
        raise _Unavailable(next(filter(None, reasons)))
    return network


def _frozen(config: Config, accelerator: Accelerator, backbone: Backbone, *, banked: bool) -> FrozenFeatures:
    shard_set = ShardSet.open(config.data.shards, config.data.storage)
    samples = ShardSamples(shard_set, config.data.train_split)
    bank = None
    if banked and (Path(config.features.dir) / "manifest.json").exists():
        bank = open_bank(config, features_fingerprint(config, shard_set, backbone), accelerator.device)
    return FrozenFeatures(config, accelerator, samples, backbone, bank)


def _evaluated(
    baseline: Baseline, title: str, config: Config, accelerator: Accelerator, frozen: FrozenFeatures, probes: bool
) -> dict[str, Any]:
    """Fit what there is to fit, share it, evaluate."""
    start, backbone = time.perf_counter(), frozen.backbone
    segmenter = _segmenter(baseline, config, frozen, probes).to(accelerator.device).eval()
    if baseline.kind == "pca":
        fit_pca(segmenter.head, accelerator, frozen)
    elif baseline.kind == "random-projection":
        draw_projection(segmenter.head, config.seed)
    console.say(f"baseline {title}: clustering by k-means")
    codes = draw_codes(config, accelerator, len(frozen.samples), frozen.features, segmenter.head)

    def cluster() -> None:
        segmenter.kmeans.copy_(find_clusters(config, codes, segmenter.num_clusters))

    try:
        on_main_process(accelerator, cluster)
    except UserError as error:
        raise _Unavailable(str(error)) from None
    given = isinstance(backbone, Picie) and backbone.centroids is not None
    if probes:
        train_probes(config, accelerator, segmenter, frozen, cluster=not given)
    share(segmenter, accelerator)
    clusters = CLUSTERS if probes or given else ("kmeans",)
    if baseline.kind not in OWN:  # nothing was kept of its features
        config = config.model_copy(update={"eval": config.eval.model_copy(update={"features": "online"})})
    named = f"baseline {title}"
    results = evaluate(config, accelerator, segmenter, backbone, clusters=clusters, title=named, brief=True).results
    return {
        "name": baseline.name,
        "backbone": backbone.name,
        "code_dim": segmenter.head.code_dim,
        "training_images": len(frozen.ids),
        "words": {**WORDS, "learned": "PiCIE's own clusters"} if given else WORDS,
        **results,
        "seconds": round(time.perf_counter() - start, 2),
    }


def _segmenter(baseline: Baseline, config: Config, frozen: FrozenFeatures, probes: bool) -> Segmenter:
    """A segmenter for its features; initial probes are a function of the seed."""
    shard_set, backbone = frozen.samples.shard_set, frozen.backbone
    count = cluster_count(config, shard_set)
    classes = shard_set.num_classes if probes and frozen.labelled else None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        if isinstance(backbone, Picie):
            if backbone.centroids is not None:
                count = len(backbone.centroids)
            return backbone.segmenter(count, classes)
        return Segmenter(
            dim=backbone.dim,
            code_dim=config.head.code_dim if baseline.kind in REDUCED else backbone.dim,
            projection="linear" if baseline.kind in REDUCED else "none",
            num_clusters=count,
            num_classes=classes,
        )
