"""Runs to export, without training, and their exports, made once: tracing takes seconds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import yaml

from stego_dist.cli import main
from stego_dist.config import dump_config
from stego_dist.engine.inputs import make_backbone
from stego_dist.inference.model import Model
from stego_dist.models.segmenter import Segmenter
from stego_dist.rundir import RunDir, write_json
from tests.tiny import config_at

CNN = {"name": "tf_efficientnet_lite0", "weights": "random", "stride": 4}
CLASSES = [{"name": "sky", "colour": [10, 20, 200]}, {"name": "road", "colour": [90, 90, 90]}]
NAMES = {0: "road | dirt", 1: "sky", 2: "sky", 3: "<b>tree</b>"}
WHOLE = 1 << 30


def make_run(root: Path, *overrides: str, labelled: bool = True, feature_weight: float = 0.0, **sections) -> RunDir:
    """What training leaves that inference reads, with random weights and four clusters."""
    root.mkdir(parents=True, exist_ok=True)
    config = config_at(root, "clusters.count=4", *overrides, **sections)
    backbone, run = make_backbone(config), RunDir(root / "run")
    torch.manual_seed(3)
    segmenter = Segmenter(
        dim=backbone.dim, code_dim=6, projection="nonlinear", num_clusters=4, num_classes=2 if labelled else None,
        feature_weight=feature_weight,
    )  # fmt: skip
    with torch.no_grad():
        segmenter.kmeans.copy_(torch.randn_like(segmenter.kmeans))
    clustering = {"feature_weight": feature_weight, "balance": 0.5}
    segmenter.save(run.model, step=6, name="tiny", classes=CLASSES if labelled else [], clustering=clustering)
    run.config.write_text(dump_config(config), "utf-8")
    write_json(run.provenance, {"inputs": {"backbone weights": backbone.weights_digest()}})
    return run


def give_names(run: RunDir) -> None:
    """Four clusters, three classes."""
    entries = {cluster: {"name": name} for cluster, name in NAMES.items()}
    entries[1]["colour"] = "#0102ff"
    run.names.write_text(yaml.safe_dump({"clusters": entries}), "utf-8")


def python_path(run: RunDir, **kwargs) -> Model:
    """The run, looking at images as they are and in one piece."""
    return Model.load(run.root, device="cpu", scale="native", window=WHOLE, **kwargs)


@dataclass(frozen=True)
class Exports:
    """A run and what was exported from it."""

    run: RunDir

    def folder(self, kind: str) -> Path:
        """Where an export lies."""
        return self.run.root / "export" / kind


def exported(run: RunDir, *kinds: str) -> Exports:
    """Export a run as a user does."""
    for kind in kinds:
        assert main(["export", str(run.root), "--format", kind]) == 0
    return Exports(run)


@pytest.fixture(scope="session")
def vit(tmp_path_factory) -> Exports:
    """A ViT with the published positional embeddings and names that people gave, in all formats."""
    run = make_run(tmp_path_factory.mktemp("vit"))
    give_names(run)
    return exported(run, "torch", "onnx", "safetensors")


@pytest.fixture(scope="session")
def cnn(tmp_path_factory) -> Exports:
    """The quickstart's network, without labels, clusters in codes beside features."""
    run = make_run(tmp_path_factory.mktemp("cnn"), labelled=False, feature_weight=1.5, backbone=CNN)
    return exported(run, "torch", "onnx")
