"""The frozen backbone: any timm ViT or CNN, as a map from images to dense features.

In: uint8 images (B, 3, H, W). Out: features (B, C, H/stride, W/stride), without gradient.
"""

from __future__ import annotations

import hashlib
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, cast

import timm
import torch
import torch.nn.functional as F
from timm.data import resolve_model_data_config
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from stego_dist.errors import UserError
from stego_dist.models.weights import load_state

VIT_MODULES = ("vision_transformer", "eva")
CACHED = 6 << 20
"""Bytes that the widest activations of a ViT may take on a CPU."""


class Backbone(nn.Module):
    """A frozen timm model seen as a dense feature extractor. Always in eval mode, never with gradients.

    Args:
        name: timm model id.
        weights: "timm" (hub or its cache), "random", or a file (see models/weights.py).
        feature: ViT only: "feat", patch tokens after the final norm, or "keys" of the last attention block
            (heads concatenated in head-major order). Prefix tokens are dropped.
        pos_interp: ViT only: "dino" interpolates positional embeddings as the published ViT does, "timm" as
            timm does; the maps differ by about 4.5 % at 28×28. Other families (EVA, DINOv3) have timm's own way.
        stride: CNN only: the feature map of this stride; None takes the last.
        options: more arguments for timm.create_model.

    Raises:
        UserError: unknown name, weights that can't be had or don't fit, a stride that the CNN lacks.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        name: str,
        *,
        weights: str = "timm",
        feature: Literal["feat", "keys"] = "feat",
        pos_interp: Literal["dino", "timm"] = "dino",
        stride: int | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if not timm.is_model(name):
            raise UserError(f"backbone.name: timm {timm.__version__} has no model {name!r}; see timm.list_models()")
        self.is_vit = timm.models.model_entrypoint(name).__module__.rpartition(".")[2] in VIT_MODULES
        arguments = {"num_classes": 0, **(options or {})}
        if self.is_vit:
            arguments.setdefault("dynamic_img_size", True)
        self.model = _create(name, weights, arguments)
        self.feature = feature
        if self.is_vit:
            if stride is not None:
                raise UserError(f"backbone.stride: {name} is a ViT, its stride is its patch size; leave it out")
            self._prepare_vit(name, pos_interp)
        else:
            if feature == "keys":
                raise UserError(f"backbone.feature: {name} is no ViT and has no keys; use feat")
            self._prepare_cnn(name, stride)
        data = resolve_model_data_config(self.model)
        self.register_buffer("mean", torch.tensor(data["mean"]).view(1, 3, 1, 1) * 255, persistent=False)
        self.register_buffer("std", torch.tensor(data["std"]).view(1, 3, 1, 1) * 255, persistent=False)
        self.name, self.pos_interp = name, pos_interp
        self._digest: str | None = None
        self.requires_grad_(False)
        self.train(False)

    def _prepare_vit(self, name: str, pos_interp: str) -> None:
        patch = self.model.patch_embed.patch_size
        self.stride, self.dim = int(patch[0]), int(self.model.embed_dim)
        if pos_interp == "dino" and isinstance(self.model, VisionTransformer) and self.model.pos_embed is not None:
            self.model._pos_embed = types.MethodType(_dino_pos_embed, self.model)
        self._keys: Tensor | None = None
        if self.feature == "keys":
            attention = self.model.blocks[-1].attn
            if getattr(attention, "qkv", None) is None:
                raise UserError(f"backbone.feature: {name} has no joint qkv projection to take keys from; use feat")
            self.heads = int(attention.num_heads)
            attention.qkv.register_forward_hook(self._catch_keys)

    def _prepare_cnn(self, name: str, stride: int | None) -> None:
        levels = [(info["reduction"], info["num_chs"]) for info in self.model.feature_info]
        if not hasattr(self.model, "forward_intermediates"):
            raise UserError(f"backbone.name: timm's {name} gives no intermediate feature maps")
        strides = [level[0] for level in levels]
        wanted = stride or strides[-1]
        if wanted not in strides:
            raise UserError(f"backbone.stride: {name} has maps of stride {sorted(set(strides))}, not {wanted}")
        self.level = len(strides) - 1 - strides[::-1].index(wanted)
        self.stride, self.dim = levels[self.level]
        self.model = self.model.to(memory_format=torch.channels_last)  # half as fast again on a CPU

    def _catch_keys(self, module: nn.Module, inputs: Any, output: Tensor) -> None:
        batch, tokens, _ = output.shape
        heads = output.view(batch, tokens, 3, self.heads, -1)[:, :, 1]
        self._keys = heads[:, self.model.num_prefix_tokens :].reshape(batch, -1, self.dim)

    def train(self, mode: bool = True) -> Backbone:
        """Stays in eval mode, whatever is asked: dropout and batch statistics are off."""
        return super().train(False)

    def normalise(self, images: Tensor) -> Tensor:
        """uint8 (B, 3, H, W) → float32, normalised by the statistics of the backbone's timm data config."""
        return (images.float() - self.mean).div_(self.std)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Dense features of uint8 images (B, 3, H, W): (B, dim, H/stride, W/stride)."""
        if images.device.type != "cpu" or not self.is_vit:
            return self.extract(self.normalise(images))
        # as many at a time as leave a block's activations in the cache: up to 15 % faster
        hidden = 4 * 4 * self.dim * (images.shape[2] // self.stride) * (images.shape[3] // self.stride)
        parts = torch.split(images, max(1, CACHED // max(1, hidden)))
        return torch.cat([self.extract(self.normalise(part)) for part in parts])

    @torch.no_grad()
    def extract(self, x: Tensor) -> Tensor:
        """Dense features of normalised images (B, 3, H, W); H and W must be multiples of a ViT's patch size."""
        if self.is_vit and (x.shape[2] % self.stride or x.shape[3] % self.stride):
            raise UserError(
                f"the image is {x.shape[2]}×{x.shape[3]} pixels, but {self.name} needs multiples of {self.stride}"
            )
        if not self.is_vit:
            x = x.contiguous(memory_format=torch.channels_last)
            options = {"indices": [self.level], "intermediates_only": True, "stop_early": True}
            try:
                maps = self.model.forward_intermediates(x, **options)
            except AssertionError as error:  # how timm's networks of one size refuse others
                raise UserError(
                    f"{self.name} does not take images of {x.shape[2]}×{x.shape[3]} pixels ({error}); choose another "
                    f"resolution, or build it for this one: backbone.options={{img_size: {x.shape[2]}}}"
                ) from None
            return cast(Tensor, maps[0].contiguous())
        feat = self.model.forward_intermediates(x, indices=1, norm=True, intermediates_only=True)[0]
        if self.feature == "feat":
            return cast(Tensor, feat)
        keys, self._keys = self._keys, None
        assert keys is not None
        return keys.transpose(1, 2).reshape(feat.shape)

    def weights_digest(self) -> str:
        """Hex SHA-256 of all parameters and buffers: what fingerprints call the backbone's weights. They are frozen, so
        it is computed once."""
        if self._digest is None:
            sha = hashlib.sha256()
            for key, value in sorted(self.model.state_dict().items()):
                sha.update(f"{key}{tuple(value.shape)}{value.dtype}".encode())
                sha.update(value.detach().cpu().contiguous().numpy().tobytes())
            self._digest = sha.hexdigest()
        return self._digest

    def check_resolution(self, key: str, resolution: int) -> None:
        """Raise UserError when a square input of `resolution` pixels does not fit the patch size."""
        if self.is_vit and resolution % self.stride:
            lower = max(1, resolution // self.stride) * self.stride
            raise UserError(
                f"{key}: {resolution} is not a multiple of the patch size of {self.name} ({self.stride}); "
                f"take {lower} or {lower + self.stride}"
            )


def descriptors(feats: Tensor) -> Tensor:
    """Global image descriptors: spatial mean of features (B, C, H, W), L2-normalised: float32 (B, C)."""
    return F.normalize(feats.float().mean((2, 3)), dim=1)


def _create(name: str, weights: str, arguments: dict[str, Any]) -> Any:
    try:
        if weights == "timm":
            try:
                return timm.create_model(name, pretrained=True, **arguments)
            except (OSError, RuntimeError) as error:
                raise UserError(_no_weights(name, error)) from None
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # "random" weights are the same on every rank and in every run
            model = timm.create_model(name, pretrained=False, **arguments)
    except TypeError as error:
        raise UserError(f"backbone.options: {name} does not take them: {error}") from None
    if weights != "random":
        load_state(model, Path(weights))
    return model


def _no_weights(name: str, error: Exception) -> str:
    from huggingface_hub import constants

    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return (
        f"backbone.weights: no weights for {name}: timm looked in the local cache {constants.HF_HUB_CACHE} and tried "
        f"to download them ({reason}). Fill that cache on a machine with internet, or set "
        "backbone.weights=FILE to a state dict (official DINO .pth, .pt, .safetensors), or backbone.weights=random."
    )


def _dino_pos_embed(self: Any, x: Tensor) -> Tensor:
    """Add positional embeddings as the published ViT does: bicubic with scale factors (n + 0.1)/n₀."""
    return add_positions(self, x, dino_position_table)


PositionTable = Callable[[Tensor, tuple[int, int], tuple[int, int]], Tensor]
"""From a table (1, n₀·n₀, C), its grid and another grid to the table (1, H·W, C) there."""


def add_positions(model: Any, x: Tensor, on_grid: PositionTable) -> Tensor:
    """What a timm VisionTransformer's `_pos_embed` does, with positional embeddings that `on_grid` resizes.

    x: patches (B, H, W, C) → tokens (B, P+H·W, C), P prefix tokens first.
    """
    batch, height, width, dim = x.shape
    prefix = 0 if model.no_embed_class else model.num_prefix_tokens
    table = on_grid(model.pos_embed[:, prefix:], model.patch_embed.grid_size, (height, width))
    x = x.view(batch, -1, dim) + table
    tokens = [t.expand(batch, -1, -1) for t in (model.cls_token, model.reg_token) if t is not None]
    if tokens:
        prefix_tokens = torch.cat(tokens, dim=1)
        if prefix:
            prefix_tokens = prefix_tokens + model.pos_embed[:, :prefix]
        x = torch.cat([prefix_tokens, x], dim=1)
    return cast(Tensor, model.pos_drop(x))


def dino_position_table(table: Tensor, trained: tuple[int, int], wanted: tuple[int, int]) -> Tensor:
    """Positional embeddings (1, n₀·n₀, C) on another grid: (1, H·W, C); no antialias, the published 0.1 offset."""
    if tuple(trained) == tuple(wanted):
        return table
    dim = table.shape[-1]
    grid = table.reshape(1, *trained, dim).permute(0, 3, 1, 2).float()
    factors = ((wanted[0] + 0.1) / trained[0], (wanted[1] + 0.1) / trained[1])
    grid = F.interpolate(grid, scale_factor=factors, mode="bicubic")
    assert grid.shape[2:] == tuple(wanted)
    return grid.permute(0, 2, 3, 1).reshape(1, -1, dim).to(table.dtype)
