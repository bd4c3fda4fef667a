"""Everything random of a training step, as a function of (seed, step, group) alone.

Drawn on the CPU, group by group, so that world size, device, restarts and compilation can't change it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, fields
from typing import Self

import torch
from torch import Tensor


@dataclass(frozen=True)
class Draws:
    """Draws for G groups of N images; S points a side, R negatives, C feature channels."""

    points: Tensor
    """float (G, N, S, S, 2) in [−1, 1], (x, y): where anchors are sampled."""
    points_other: Tensor
    """float (G, N, S, S, 2): where neighbours and negatives are sampled."""
    negatives: Tensor
    """int64 (G, R, N): for each anchor, the place in its group of the random other image."""
    keep: Tensor
    """float (G, N, 2, 3, C): scaled dropout masks of (anchor, neighbour) × (branch 1, branch 2, loss features)."""

    def to(self, device: torch.device | str) -> Self:
        """The same on another device."""
        return type(self)(*(getattr(self, f.name).to(device, non_blocking=True) for f in fields(self)))


def generator(*parts: int | str) -> torch.Generator:
    """A CPU generator that depends on `parts` alone."""
    text = "/".join(str(part) for part in parts)
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
    return torch.Generator().manual_seed(seed)


def draw_negatives(n: int, rng: torch.Generator) -> Tensor:
    """A random permutation of n with one added to every fixed point, modulo n (published `super_perm`)."""
    if n < 2:
        raise ValueError(f"random pairs need at least 2 images in a group, got {n}")
    permutation = torch.randperm(n, generator=rng)
    fixed = permutation == torch.arange(n)
    return (permutation + fixed) % n


def draw_step(
    *,
    seed: int,
    step: int,
    groups: range,
    size: int,
    points: int,
    negatives: int,
    channels: int,
    dropout: float,
) -> Draws:
    """The draws of one step for the groups in `groups` (their numbers in the global batch).

    size: images a group (N); points: S; channels: of the features (C); dropout: probability of Dropout2d.
    """

    def one(group: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        rng = generator(seed, "step", step, group)
        first = torch.rand(size, points, points, 2, generator=rng) * 2 - 1
        second = torch.rand(size, points, points, 2, generator=rng) * 2 - 1
        others = torch.stack([draw_negatives(size, rng) for _ in range(negatives)])
        keep = (torch.rand(size, 2, 3, channels, generator=rng) >= dropout).float() / (1 - dropout)
        return first, second, others, keep

    return Draws(*(torch.stack(parts) for parts in zip(*(one(group) for group in groups))))


def draw_neighbour_ranks(*, seed: int, step: int, groups: range, size: int, highest: Tensor) -> Tensor:
    """For every anchor of the groups a rank drawn uniformly from 1…highest (int64 (G·N,), each at least 1).

    highest: int64 (G·N,), the number of usable neighbours of each anchor.
    """
    uniform = torch.cat([torch.rand(size, generator=generator(seed, "ranks", step, g)) for g in groups])
    return 1 + (uniform.double() * highest).long().clamp(max=highest - 1)


def draw_lines(
    *, seed: int, step: int, groups: range, size: int, count: int, height: int, width: int
) -> tuple[Tensor, Tensor]:
    """Rows and columns of the pixels that the linear probe's loss takes of each image, int64 (G·N, count) each.

    An axis is cut into `count` equal pieces and a position is drawn uniformly from each, so that every row and every
    column is expected equally often.
    """
    uniform = torch.cat([torch.rand(size, 2, count, generator=generator(seed, "lines", step, g)) for g in groups])
    pieces = torch.arange(count) + uniform.double()
    rows, columns = (pieces[:, axis] * (length / count) for axis, length in enumerate((height, width)))
    return rows.long().clamp(max=height - 1), columns.long().clamp(max=width - 1)
