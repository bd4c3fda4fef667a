"""A STEGO module and its checkpoint in the published layout, made on the spot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import timm
import torch
from omegaconf import OmegaConf
from torch import nn

from tests.tiny import TREE

WIDTH, CODE, CLASSES = TREE["backbone"]["options"]["embed_dim"], 5, 2
SETTINGS = {
    "arch": "dino", "dino_feat_type": "feat", "dim": CODE, "pos_intra_weight": 0.5, "neg_inter_shift": 0.7,
    "max_steps": 7, "reset_probe_steps": None, "tags": ["a", "b"], "nested": {"rate": 1.5},
}  # fmt: skip


class Featurizer(nn.Module):
    """Backbone and the two branches of the head, by their published names."""

    def __init__(self, linear: bool) -> None:
        super().__init__()
        b = TREE["backbone"]
        self.model = timm.create_model(b["name"], num_classes=0, **b["options"]).eval()
        self.cluster1 = nn.Sequential(nn.Conv2d(WIDTH, CODE, 1))
        if not linear:
            self.cluster2 = nn.Sequential(nn.Conv2d(WIDTH, WIDTH, 1), nn.ReLU(), nn.Conv2d(WIDTH, CODE, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = self.model.forward_features(x)[:, 1:]
        side = int(tokens.shape[1] ** 0.5)
        feats = tokens.transpose(1, 2).unflatten(2, (side, side))
        code: torch.Tensor = self.cluster1(feats)
        return code + self.cluster2(feats) if hasattr(self, "cluster2") else code


class Published(nn.Module):
    """The whole module."""

    def __init__(self, *, extra: int = 0, linear: bool = False) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.net = Featurizer(linear)
        self.train_cluster_probe = nn.Module()
        self.train_cluster_probe.clusters = nn.Parameter(torch.randn(CLASSES, CODE))
        self.cluster_probe = nn.Module()
        self.cluster_probe.clusters = nn.Parameter(torch.randn(CLASSES + extra, CODE))
        self.linear_probe = nn.Conv2d(CODE, CLASSES, 1)
        self.decoder = nn.Conv2d(CODE, WIDTH, 1)


def write_checkpoint(path: Path, module: Published, **more: Any) -> Path:
    """What Lightning writes of it."""
    content = {
        "epoch": 0,
        "global_step": 6999,
        "pytorch-lightning_version": "1.5.10",
        "state_dict": module.state_dict(),
        "callbacks": {"ModelCheckpoint{'monitor': 'test/cluster/mIoU'}": {"best_model_score": torch.tensor(28.2)}},
        "optimizer_states": [torch.optim.Adam(module.parameters()).state_dict()],
        "lr_schedulers": [],
        "hparams_name": "kwargs",
        "hyper_parameters": {"n_classes": CLASSES, "cfg": OmegaConf.create(SETTINGS)},
    }
    torch.save({**content, **more}, path)
    return path
