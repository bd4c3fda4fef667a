"""Images in, labels out: what is traced and exported.

1. uint8 images of any size, their last row and column repeated up to multiples of the stride;
2. normalisation, backbone, flip average, head, clusters: as `inference.model.Scorer`, which is the reference;
3. scores of clusters at the size of the image, the winner's class.

Tracing needs sizes that stay symbols, so a copy of the scorer is made whose parts that fix them are replaced by equal
ones that don't.
"""

from __future__ import annotations

import copy
import types
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import Conv2dSame, RotaryEmbeddingDinoV3
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from stego_dist.engine.predict import LINEAR
from stego_dist.export.positions import dino_table, timm_table
from stego_dist.inference.model import Scorer
from stego_dist.inference.names import Names
from stego_dist.models.backbone import Backbone, add_positions

INPUT, OUTPUTS = "images", ("labels", "scores")
"""Names that the exported graph has for its input and its outputs."""


class Portable(nn.Module):
    """The whole path from images to labels, ready to be traced.

    images: uint8 (B, 3, H, W), RGB. Returns labels int32 (B, H, W), indices into `names.classes`, and scores float32
    (B, K, ⌈H/stride⌉, ⌈W/stride⌉) on the network's grid: cosines of K clusters, or a linear probe's probabilities.
    """

    of_cluster: Tensor

    def __init__(self, scorer: Scorer, names: Names) -> None:
        super().__init__()
        self.scorer = copy.deepcopy(scorer)
        self.stride, self.flip, self.linear = scorer.backbone.stride, scorer.flip, scorer.readout == LINEAR
        self.register_buffer("of_cluster", torch.tensor(names.of_cluster, dtype=torch.int32))
        _free_sizes(self.scorer.backbone)
        self.eval().requires_grad_(False)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """See the class."""
        height, width = images.shape[2], images.shape[3]
        code = self._code(self._padded(images))
        scores, lengths = self.scorer.read(code)
        comparable = scores.softmax(1) if self.linear else scores / lengths[:, None].clamp(min=1e-12)
        maps = F.interpolate(scores, scale_factor=float(self.stride), mode="bilinear", align_corners=False)
        # not a slice: whether one is empty or whole would be decided when it is traced
        clusters = maps.argmax(1).index_select(1, torch.arange(height)).index_select(2, torch.arange(width))
        return self.of_cluster[clusters], comparable

    def _padded(self, images: Tensor) -> Tensor:
        rows, columns = (
            torch.arange((side + self.stride - 1) // self.stride * self.stride).clamp(max=side - 1)
            for side in images.shape[2:]
        )
        return images.index_select(2, rows).index_select(3, columns)

    def _code(self, images: Tensor) -> Tensor:
        backbone, encode = self.scorer.backbone, self.scorer.segmenter.encode
        if not self.flip:
            return encode(backbone.extract(backbone.normalise(images)))
        both = encode(backbone.extract(backbone.normalise(torch.cat([images, images.flip(-1)]))))
        batch = images.shape[0]
        return (both[:batch] + both[batch:].flip(-1)) / 2


def _free_sizes(backbone: Backbone) -> None:
    """Replace what a trace would bind to the traced size. The numbers stay the same up to rounding."""
    model = backbone.model
    for part in model.modules():
        if isinstance(part, Conv2dSame):
            part.forward = types.MethodType(_conv_of_multiples, part)
        elif isinstance(part, RotaryEmbeddingDinoV3) and part.normalize_coords == "separate":
            part.get_embed = types.MethodType(_rope_of_any_grid, part)
    if isinstance(model, VisionTransformer) and model.pos_embed is not None:
        positions = _dino_positions if backbone.pos_interp == "dino" else _timm_positions
        model._pos_embed = types.MethodType(positions, model)


def _dino_positions(model: Any, x: Tensor) -> Tensor:
    return add_positions(model, x, dino_table)


def _timm_positions(model: Any, x: Tensor) -> Tensor:
    return add_positions(model, x, timm_table)


def _conv_of_multiples(self: Conv2dSame, x: Tensor) -> Tensor:
    """A convolution with SAME padding of a map whose sides are multiples of its stride: the padding is constant."""
    pads: list[int] = []
    for size, stride, dilation in zip(self.kernel_size, self.stride, self.dilation):
        total = max((size - 1) * dilation + 1 - stride, 0)
        pads = [total // 2, total - total // 2, *pads]  # F.pad begins with the last axis
    return F.conv2d(F.pad(x, pads), self.weight, self.bias, self.stride, (0, 0), self.dilation, self.groups)


def _rope_of_any_grid(self: Any, shape: tuple[int, int], dtype: torch.dtype | None = None) -> Tensor:
    """Rotary embeddings (H·W, 2·dim) of a grid, as RotaryEmbeddingDinoV3.get_embed has them."""
    axes = [(torch.arange(side) + 0.5 + self.grid_offset) / (torch.arange(side).max() + 1.0) for side in shape]
    grid = torch.stack(torch.meshgrid(axes, indexing=self.grid_indexing), -1).flatten(0, 1)
    return torch.cat(self._get_pos_embed_from_coords(2 * grid - 1), -1).to(dtype or self.periods.dtype)
