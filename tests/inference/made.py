"""Runs as training leaves them, made in a second: random heads whose centres are codes of the images themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from stego_dist.config import Config
from stego_dist.config.load import dump_config
from stego_dist.data.manifest import ShardSet
from stego_dist.data.samples import ShardSamples
from stego_dist.engine.inputs import make_backbone, make_segmenter
from stego_dist.inference.model import Model, Scorer
from stego_dist.inference.names import Names, default_names
from stego_dist.models.segmenter import Segmenter
from stego_dist.rundir import RunDir
from tests.tiny import build_shards, config_at

CNN = {"name": "test_resnet", "weights": "random", "stride": 8}
COARSE_VIT = {
    "name": "vit_tiny_patch16_224",
    "weights": "random",
    "options": {"img_size": 256, "patch_size": 64, "depth": 1, "embed_dim": 24, "num_heads": 2},
}


def write_run(root: Path, *overrides: str, clusters: int = 5, classes: bool = True, **sections: Any) -> RunDir:
    """RUN below `root` with shards beside it; the segmenter's centres are codes of training images."""
    if not (root / "shards").exists():
        build_shards(root)
    config = config_at(root, f"clusters.count={clusters}", *overrides, **sections)
    run, shard_set, backbone = RunDir(Path(config.run_dir)), ShardSet.open(config.data.shards), make_backbone(config)
    segmenter = make_segmenter(config, backbone.dim, shard_set).eval()
    put_centres(segmenter, codes(config, segmenter, backbone, shard_set))
    run.root.mkdir(parents=True, exist_ok=True)
    run.config.write_text(dump_config(config), "utf-8")
    segmenter.save(run.model, step=1, name="tiny", classes=shard_set.described_classes if classes else [])
    return run


@torch.no_grad()
def codes(config: Config, segmenter: Segmenter, backbone: nn.Module, shard_set: ShardSet) -> Tensor:
    samples = ShardSamples(shard_set, "train")
    views = [samples.image_view(i, config.eval.resolution // 8 * 8, "bilinear") for i in range(8)]
    return segmenter.encode(backbone(torch.stack(views))).permute(0, 2, 3, 1).flatten(0, 2)


def put_centres(segmenter: Segmenter, points: Tensor) -> None:
    """Codes far from each other as centres, of both kinds."""
    unit = torch.nn.functional.normalize(points, dim=1)
    chosen = [0]
    while len(chosen) < segmenter.num_clusters:
        chosen.append(int((unit @ unit[chosen].T).amax(1).argmin()))
    segmenter.set_kmeans(unit[chosen].clone())
    segmenter.cluster.centres.data.copy_(unit[chosen].flip(0))
    if segmenter.linear is not None:  # no class of the probe wins everywhere
        conv = segmenter.linear.conv
        conv.bias.data.copy_(-conv.weight.data[:, :, 0, 0] @ points[:, : conv.in_channels].mean(0))


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Blocks of colours with noise, uint8 (H, W, 3)."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 255, (height // 16 + 1, width // 16 + 1, 3))
    large = np.kron(blocks, np.ones((16, 16, 1)))[:height, :width]
    return np.clip(large + rng.normal(0, 8, (height, width, 3)), 0, 255).astype(np.uint8)


class Pointwise(nn.Module):
    """A backbone whose features at a place depend on the pixels of its cell alone."""

    def __init__(self, stride: int = 4, dim: int = 8) -> None:
        super().__init__()
        self.stride, self.dim = stride, dim
        self.register_buffer("mix", torch.randn(dim, 3, generator=torch.Generator().manual_seed(0)))

    def forward(self, images: Tensor) -> Tensor:
        cells = nn.functional.avg_pool2d(images.float() / 255 - 0.5, self.stride)
        return torch.einsum("bchw,dc->bdhw", cells, self.mix)


class Contextual(Pointwise):
    """One that looks at a wide surrounding, and takes what lies beyond the border for grey: borders show."""

    def forward(self, images: Tensor) -> Tensor:
        feats = super().forward(images)
        near = nn.functional.avg_pool2d(feats, 9, stride=1, padding=4, count_include_pad=True)
        return feats + 4 * near


def model_of(backbone: nn.Module, *, clusters: int = 4, names: Names | None = None, flip: bool = False, **kw) -> Model:
    """A model around a backbone made by hand, whose codes are its features."""
    segmenter = Segmenter(
        dim=backbone.dim, code_dim=backbone.dim, projection="none", num_clusters=clusters, num_classes=3
    )
    rng = torch.Generator().manual_seed(1)
    segmenter.set_kmeans(torch.randn(clusters, backbone.dim, generator=rng))
    readout = kw.pop("readout", "kmeans")
    settings = {"scale": "native", "window": 1 << 20, **kw}
    scorer = Scorer(backbone, segmenter, readout, flip=flip)
    return Model(scorer, names or default_names(3 if readout == "linear" else clusters), **settings)
