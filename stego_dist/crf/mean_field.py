"""The dense CRF's mean field in torch, on a CPU or a GPU: what crf/dense.py asks of the library, for several images.

Both terms are filters on permutohedral lattices (torch_lattice.py), so nothing is approximated that the library does
not: marginals agree with its to about 1e-5.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from stego_dist.crf import dense as library
from stego_dist.crf.torch_lattice import Lattice, build_lattice

OVERFLOW = 60.0
"""Logits from which the largest of a pixel is subtracted before exp."""


@torch.no_grad()
def mean_field(images_bgr: Tensor, maps: Sequence[Tensor], steps: int = library.STEPS) -> list[Tensor]:
    """Mean-field marginals of several maps of the same images.

    images_bgr: uint8 (B, H, W, 3), blue first. maps: log-probabilities float32 (B, K, H, W); K may differ between
    maps. Returns marginals (B, K, H, W), one for each map. Raises ValueError: sizes that don't go together.
    """
    images, height, width, _ = images_bgr.shape
    for given in maps:
        if given.shape != (images, given.shape[1], height, width):
            wanted = (images, given.shape[1], height, width)
            raise ValueError(f"a map is {tuple(given.shape)}, expected {wanted} to go with the images")
    logits = [_columns(given.float().log_softmax(1).clamp_(min=math.log(library.FLOOR))) for given in maps]
    most = max(given.shape[1] for given in logits)
    unary = images_bgr.new_full((len(logits[0]), len(logits), most), -library.PADDED, dtype=torch.float32)
    for at, given in enumerate(logits):
        unary[:, at, : given.shape[1]] = given
    terms = [
        _gaussian(images, height, width, images_bgr.device),
        build_lattice(_bilateral_features(images_bgr), library.BILATERAL_WEIGHT),
    ]
    channels = len(logits) * most
    scratches = [term.scratch(channels) for term in terms]
    q = _softmax(unary.clone())
    for _ in range(steps):
        spread = [term.spread(q.view(-1, channels), scratch) for term, scratch in zip(terms, scratches)]
        for blocks in zip(*(term.slice.blocks for term in terms), strict=True):
            total = q[blocks[0].rows].copy_(unary[blocks[0].rows])  # q itself is no longer needed
            for block, vertices in zip(blocks, spread):
                block.add_product(total.view(-1, channels), vertices)
            _softmax(total)
    shape = images, height, width, len(maps), most
    marginals = q.view(shape).permute(3, 0, 4, 1, 2)
    return [marginal[:, : given.shape[1]] for marginal, given in zip(marginals, maps)]


def _softmax(logits: Tensor) -> Tensor:
    """Softmax along the last dimension, in place; torch's own is up to 5 times slower on a CPU where that is short.

    Log-probabilities and messages, which are not negative, can't underflow; they could overflow.
    """
    if logits.is_cuda:
        return torch.softmax(logits, -1, out=logits)
    if float(logits.max()) > OVERFLOW:
        logits -= logits.amax(-1, keepdim=True)
    logits.exp_()
    logits /= logits.sum(-1, keepdim=True)
    return logits


def _columns(maps: Tensor) -> Tensor:
    """(B, K, H, W) → (B·H·W, K)"""
    return maps.permute(0, 2, 3, 1).reshape(-1, maps.shape[1])


def _positions(height: int, width: int, deviation: float, device: torch.device) -> Tensor:
    """Positions x, y in standard deviations, float32 (H·W, 2)."""
    y, x = torch.meshgrid(torch.arange(height, device=device), torch.arange(width, device=device), indexing="ij")
    return torch.stack([x, y], -1).view(-1, 2).float() / deviation


@lru_cache(maxsize=4)
def _gaussian(images: int, height: int, width: int, device: torch.device) -> Lattice:
    """The smoothness term; it depends on nothing but the size."""
    features = _positions(height, width, library.GAUSSIAN_XY, device).expand(images, -1, -1)
    return build_lattice(features.contiguous(), library.GAUSSIAN_WEIGHT)


def _bilateral_features(images_bgr: Tensor) -> Tensor:
    images, height, width, _ = images_bgr.shape
    positions = _positions(height, width, library.BILATERAL_XY, images_bgr.device).expand(images, -1, -1)
    return torch.cat([positions, images_bgr.reshape(images, -1, 3).float() / library.BILATERAL_RGB], 2)
