"""Positional embeddings of a ViT on a grid whose size is known only when the exported graph runs.

Resizing a table is linear and separable: rows · table · columnsᵀ. Here the two matrices are computed from the size by
operations that graphs have for any size, so the exported model takes images of any size; they equal torch's bicubic
kernels, which exporters bind to the size that was traced.
"""

from __future__ import annotations

import torch
from torch import Tensor

DINO_OFFSET = 0.1
"""What the published ViT adds to the wanted rows and columns before it divides."""
KEYS, PLAIN = -0.5, -0.75
"""Keys' parameter of the cubic kernel: torch's with antialias, and without."""


def dino_table(table: Tensor, trained: tuple[int, int], wanted: tuple[int, int]) -> Tensor:
    """As models.backbone.dino_position_table: (1, n₀·n₀, C) → (1, H·W, C); the trained grid is left as it is."""
    sides = [_plain_matrix(n, new) for n, new in zip(trained, wanted)]
    same = torch.ones((), dtype=torch.bool)
    for n, new in zip(trained, wanted):
        same = same & (torch.arange(new).max() == n - 1)
    kept = [(torch.arange(new)[:, None] == torch.arange(n)).float() for n, new in zip(trained, wanted)]
    return _resized(table, trained, *(torch.where(same, keep, side) for keep, side in zip(kept, sides)))


def timm_table(table: Tensor, trained: tuple[int, int], wanted: tuple[int, int]) -> Tensor:
    """As timm.layers.resample_abs_pos_embed without prefix tokens: bicubic with antialias."""
    return _resized(table, trained, *(_antialiased_matrix(n, new) for n, new in zip(trained, wanted)))


def _resized(table: Tensor, trained: tuple[int, int], rows: Tensor, columns: Tensor) -> Tensor:
    grid = table.float().reshape(*trained, table.shape[-1])
    resized = torch.einsum("hi,ijc,wj->hwc", rows, grid, columns)
    return resized.reshape(1, rows.shape[0] * columns.shape[0], table.shape[-1]).to(table.dtype)


def _plain_matrix(n: int, new: int) -> Tensor:
    """Weights (new, n) of bicubic interpolation by a factor (new + 0.1)/n; beyond the border its value goes on."""
    scale = (n / (torch.arange(new).max().double() + 1 + DINO_OFFSET)).float()
    at = (torch.arange(new) + 0.5) * scale - 0.5
    taps = at.floor()[:, None] + torch.arange(-1, 3)
    weights = _cubic(at[:, None] - taps, PLAIN)
    hits = taps.clamp(0, n - 1)[:, :, None] == torch.arange(n)
    return (hits * weights[:, :, None]).sum(1)


def _antialiased_matrix(n: int, new: int) -> Tensor:
    """Weights (new, n) of bicubic resizing with antialias: what lies beyond the border doesn't count."""
    scale = n / (torch.arange(new).max() + 1.0)
    at = (torch.arange(new) + 0.5) * scale
    weights = _cubic((torch.arange(n) + 0.5 - at[:, None]) / scale.clamp(min=1), KEYS)
    return weights / weights.sum(1, keepdim=True)


def _cubic(x: Tensor, a: float) -> Tensor:
    """Keys' cubic convolution kernel."""
    x = x.abs()
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return torch.where(x <= 1, near, torch.where(x < 2, far, torch.zeros_like(x)))
