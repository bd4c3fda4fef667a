"""The trained part of a run: head, probes and cluster centres; saved as one small safetensors file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stego_dist.errors import UserError
from stego_dist.models.head import Head, Projection
from stego_dist.models.probes import ClusterProbe, LinearProbe, cosine_to
from stego_dist.models.weights import read_with_header
from stego_dist.rundir import atomic_path

FORMAT = "stego_dist.segmenter/1"

Encode = Callable[[Tensor], Tensor]
"""From features (B, C, h, w) to codes (B, D, h, w): a head, or `Segmenter.encode`."""


class Segmenter(nn.Module):
    """Head, cluster probe, linear probe (where there are classes) and k-means centres.

    Args:
        dim: channels of the backbone's features.
        code_dim, projection: of the head.
        num_clusters: centres of the cluster probe and of k-means.
        feature_weight: what features count beside codes in the space of k-means; 0: codes alone.
        num_classes: classes of the linear probe; None leaves it out.
    """

    kmeans: Tensor

    def __init__(
        self,
        *,
        dim: int,
        code_dim: int,
        projection: Projection,
        num_clusters: int,
        num_classes: int | None,
        feature_weight: float = 0.0,
    ) -> None:
        super().__init__()
        self.shape: dict[str, Any] = {
            "dim": dim,
            "code_dim": code_dim,
            "projection": projection,
            "num_clusters": num_clusters,
            "num_classes": num_classes,
        }
        self.head = Head(dim, code_dim, projection)
        self.cluster = ClusterProbe(self.head.code_dim, num_clusters)
        self.linear = LinearProbe(self.head.code_dim, num_classes) if num_classes else None
        self.register_buffer("kmeans", torch.empty(0))
        self.set_kmeans(torch.zeros(num_clusters, self.head.code_dim + (dim if feature_weight else 0)), feature_weight)

    @property
    def num_clusters(self) -> int:
        """Number of clusters, of either kind."""
        return int(self.kmeans.shape[0])

    def centres(self, which: str) -> Tensor:
        """Cluster centres (K, C): "learned" by the probe, or "kmeans" over training codes."""
        return self.cluster.centres if which == "learned" else self.kmeans

    def set_kmeans(self, centres: Tensor, feature_weight: float = 0.0) -> None:
        """Take centres (K, D), or with a feature_weight (K, D + C), of k-means."""
        self.feature_weight = self.shape["feature_weight"] = feature_weight
        self.kmeans = centres.to(self.cluster.centres.device, torch.float32)

    def encode(self, feats: Tensor) -> Tensor:
        """What everything is read out of: codes (B, D, h, w) of features (B, C, h, w), float32.

        With a feature_weight w the features follow as further channels (B, D + C, h, w), w·|code| long, so that the
        direction is that of the unit code beside w times the unit features. What reads codes takes the first D.
        """
        code: Tensor = self.head(feats).float()
        if not self.feature_weight:
            return code
        length = self.feature_weight * code.norm(dim=1, keepdim=True)
        return torch.cat([code, length * F.normalize(feats.float(), dim=1)], 1)

    @torch.no_grad()
    def cosines(self, code: Tensor, which: str) -> Tensor:
        """Cosines (B, K, H, W) of what `encode` gives with the centres of `which` clusters."""
        centres = self.centres(which)
        return cosine_to(code[:, : centres.shape[1]], centres)

    def save(self, path: Path, **meta: Any) -> None:
        """Write everything to `path` atomically; `meta` (JSON-able) travels in the file's header."""
        header = {"format": FORMAT, "shape": json.dumps(self.shape), "meta": json.dumps(meta)}
        state = {key: value.detach().cpu().contiguous() for key, value in self.state_dict().items()}
        with atomic_path(path) as tmp:
            safetensors.torch.save_file(state, tmp, metadata=header)

    @classmethod
    def load(cls, path: Path) -> tuple[Segmenter, dict[str, Any]]:
        """Read a file written by `save`: the segmenter in eval mode and its meta. Raises UserError."""
        if not path.is_file():
            raise UserError(f"no trained model at {path}; run `stego-dist train` first")
        state, header = read_with_header(path)
        if header.get("format") != FORMAT:
            raise UserError(f"{path} is no segmenter of this project (expected format {FORMAT})")
        model = cls(**json.loads(header["shape"]))
        model.load_state_dict(state)
        return model.eval(), json.loads(header["meta"])


@torch.no_grad()
def averaged_code(encode: Encode, feats: Tensor, flip: bool = True) -> Tensor:
    """Codes float32 (B, C, h, w) of features (B, D, h, w); with `flip`, ½(code(x) + unflip(code(flip x))) of features
    (2B, D, h, w) of images and then of their mirror images."""
    if not flip:
        code: Tensor = encode(feats).float()
        return code
    straight, mirrored = codes_of_both(encode, feats)
    averaged: Tensor = (straight + mirrored) / 2
    return averaged


@torch.no_grad()
def codes_of_both(encode: Encode, feats: Tensor) -> tuple[Tensor, Tensor]:
    """Codes of images, and of their mirror images mirrored back, float32 (B, C, h, w) each, of features (2B, D, h, w)
    of images and then of their mirror images."""
    straight, mirrored = encode(feats).float().chunk(2)
    return straight, mirrored.flip(-1)


def resize_maps(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear resizing of (B, K, h, w) to `size`, align_corners=False, no antialias."""
    return F.interpolate(maps, size, mode="bilinear", align_corners=False)
