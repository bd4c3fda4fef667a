"""PiCIE's network and clusters from its checkpoint, to be evaluated as a baseline (Cho et al., CVPR 2021).

A ResNet-18 and a feature pyramid of 1×1 convolutions: 128 channels at stride 4, compared by their directions.
The checkpoint is the published training's: `state_dict` with `module.backbone.*` (torchvision's names) and
`module.decoder.layer1` (of the coarsest map) to `layer4`, `classifier1_state_dict` with the centroids.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stego_dist.errors import UserError
from stego_dist.models.backbone import Backbone
from stego_dist.models.segmenter import Segmenter, resize_maps
from stego_dist.models.weights import load_tensors, read_tensors, unwrap_state

DIM = 128
MAPS = (64, 128, 256, 512)
"""Channels of the ResNet's maps of stride 4, 8, 16 and 32."""


class Picie(Backbone):
    """PiCIE as an extractor of dense features (B, 128, H/4, W/4) of unit length.

    `centroids`: (K, 128), those of the file's clusters; None when it has none.
    Raises UserError when the file can't be read or is no checkpoint of a PiCIE with ResNet-18.
    """

    def __init__(self, path: Path) -> None:
        super().__init__("resnet18", weights="random")
        content = read_tensors(path, "picie")
        laterals = {f"layer{n}": nn.Conv2d(width, DIM, 1) for n, width in enumerate(reversed(MAPS), start=1)}
        self.model = nn.ModuleDict({"backbone": self.model, "decoder": nn.ModuleDict(laterals)})
        load_tensors(self.model, unwrap_state(content, ("module.",)), f"picie: {path}")
        self.requires_grad_(False)
        self.train(False)
        self.name, self.dim, self.stride = "PiCIE ResNet-18", DIM, 4
        self.centroids = _centroids(content, path)

    @torch.no_grad()
    def extract(self, x: Tensor) -> Tensor:
        """Unit features (B, 128, H/4, W/4) of normalised images (B, 3, H, W)."""
        resnet, decoder = self.model["backbone"], self.model["decoder"]
        maps = resnet.forward_intermediates(x, indices=[1, 2, 3, 4], intermediates_only=True)
        top: Tensor = decoder["layer1"](maps[3])
        for n in (2, 3, 4):
            lateral = decoder[f"layer{n}"](maps[4 - n])
            top = resize_maps(top, (lateral.shape[2], lateral.shape[3])) + lateral
        return F.normalize(top, dim=1)

    def segmenter(self, num_clusters: int, num_classes: int | None) -> Segmenter:
        """A segmenter over these features whose learned clusters are the file's, if it has any.

        PiCIE takes the largest product with its centroids, whose lengths differ. A 129th channel of the code, always 0,
        carries what a centroid lacks to the longest one: cosines with equally long centres have the same order.
        """
        shape: dict[str, Any] = {"dim": DIM, "code_dim": DIM + 1, "num_clusters": num_clusters}
        segmenter = Segmenter(**shape, projection="linear", num_classes=num_classes)
        with torch.no_grad():
            segmenter.head.linear.weight.copy_(torch.eye(DIM + 1, DIM)[:, :, None, None])
            nn.init.zeros_(segmenter.head.linear.bias)  # type: ignore[arg-type]
            if self.centroids is not None:
                squares = self.centroids.double().square().sum(1, keepdim=True)
                lacking = (squares.max() - squares).sqrt().float()
                segmenter.cluster.centres.copy_(torch.cat([self.centroids, lacking], 1))
        return segmenter


def _centroids(content: Mapping[str, Any], path: Path) -> Tensor | None:
    stored = content.get("classifier1_state_dict")
    if not isinstance(stored, Mapping):
        return None
    state = unwrap_state(stored, ("module.",))
    weight, bias = state.get("weight"), state.get("bias")
    if weight is None or weight.flatten(1).shape[1] != DIM:
        raise UserError(f"picie: {path}: classifier1_state_dict has no weight (K, {DIM}, 1, 1) of centroids")
    if bias is not None and bias.any():
        raise UserError(f"picie: {path}: classifier1 has a bias, so it is a trained classifier and no set of centroids")
    return weight.flatten(1).float()
