"""High-dimensional Gaussian filtering on the permutohedral lattice (Adams et al., 2010) as sparse matrices in torch.

In: the features of the points of some images. Out: `Lattice`, whose filter is slice · blurs · splat, normalised
symmetrically, as the library of Krähenbühl and Koltun (2011) computes it: the same elevation and rounding, the same
vertices, one blur along each axis in turn. Where that library hashes keys, keys are packed into integers and sorted.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

import torch
from torch import Tensor

LANES = 4
"""The library pads an image's points to a multiple of this with points at the origin."""

warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta state")


@dataclass(frozen=True)
class Lattice:
    """The operators of n points on m vertices; sparse CSR matrices, float32."""

    splat: Tensor
    """(m, n)"""
    blurs: tuple[Tensor, ...]
    """(m, m), one for each of the d + 1 axes."""
    slice: Tensor
    """(n, m)"""

    def add_filtered(self, base: Tensor, values: Tensor) -> Tensor:
        """`base` plus the filtered `values`, both float32 (n, C)."""
        on_vertices = self.splat @ values
        for blur in self.blurs:
            on_vertices = blur @ on_vertices
        return torch.addmm(base, self.slice, on_vertices)


def build_lattice(features: Tensor, weight: float) -> Lattice:
    """The lattice of features float32 (B, n, d) of B images: points b·n … b·n + n − 1 are those of image b.

    Features are in units of the kernel's standard deviation. What the filter gives is multiplied by `weight`.
    """
    images, points, dim = features.shape
    padded = torch.cat([features, features.new_zeros(images, -points % LANES and 1, dim)], 1)
    keys, weights = _simplex(padded.view(-1, dim))
    packed, steps = _pack(keys.view(images, -1, dim + 1, dim))
    point = torch.arange(images * points, device=features.device).view(images, points)
    weights = weights.view(images, -1, dim + 1)
    if padded.shape[1] > points:  # it makes vertices, but holds nothing
        weights[:, points] = 0
        point = torch.cat([point, point[:, :1]], 1)

    sorted_keys, order = packed.view(-1).sort(stable=True)
    vertices, counts = sorted_keys.unique_consecutive(return_counts=True)
    vertex = torch.empty_like(order)
    vertex[order] = torch.repeat_interleave(torch.arange(len(vertices), device=order.device), counts)
    size = len(vertices), images * points
    splat = _csr(_starts(counts), point.view(-1)[order // (dim + 1)], weights.reshape(-1)[order], size)
    corners = torch.full((images * points,), dim + 1, device=order.device)
    vertex, weights = (t.view(images, -1, dim + 1)[:, :points].reshape(-1) for t in (vertex, weights))
    slicing = _csr(_starts(corners), vertex, weights / (1 + 2.0**-dim), size[::-1])
    plain = Lattice(splat, tuple(_blur(vertices, step) for step in steps), slicing)

    ones = features.new_ones(images * points, 1)
    norm = (plain.add_filtered(torch.zeros_like(ones), ones)[:, 0] + 1e-20).rsqrt()
    splat.values().mul_(norm[splat.col_indices()])
    slicing.values().mul_((weight * norm).repeat_interleave(dim + 1))
    return plain


def _simplex(features: Tensor) -> tuple[Tensor, Tensor]:
    """The d + 1 vertices around each of n features (n, d).

    Returns the first d coordinates of each vertex, int64 (n, d + 1, d), and its barycentric weight (n, d + 1).
    """
    points, dim = features.shape
    deviation = _float32(math.sqrt(2 / 3) * (dim + 1))
    elevated = features.new_empty(dim + 1, points)
    total = features.new_zeros(points)
    for i in range(dim, 0, -1):
        scaled = features[:, i - 1] * _float32(deviation / math.sqrt((i + 1) * i))
        elevated[i] = total - i * scaled
        total = total + scaled
    elevated[0] = total

    rounded = (elevated * _float32(1 / (dim + 1))).round()
    nearest = rounded * (dim + 1)
    rest = elevated - nearest
    rank = rounded.sum(0).repeat(dim + 1, 1)  # what the rounded point is off the plane by
    for i in range(dim):
        for j in range(i + 1, dim + 1):
            smaller = (rest[i] < rest[j]).float()
            rank[i] += smaller
            rank[j] += 1 - smaller
    back = ((rank < 0).float() - (rank > dim).float()) * (dim + 1)
    rank, nearest = (rank + back).long(), nearest + back

    share = (elevated - nearest) * _float32(1 / (dim + 1))
    weights = features.new_zeros(dim + 2, points)
    weights.scatter_add_(0, dim - rank, share)
    weights.scatter_add_(0, dim - rank + 1, -share)
    weights[0] += 1 + weights[dim + 1]

    remainder = torch.arange(dim + 1, device=features.device)
    canonical = remainder[:, None] - (dim + 1) * (remainder > dim - remainder[:, None])
    keys = nearest[:dim].long() + canonical[:, rank[:dim]]
    return keys.permute(2, 0, 1), weights[: dim + 1].T.contiguous()


def _pack(keys: Tensor) -> tuple[Tensor, list[int]]:
    """Keys (B, n, d + 1, d) as one integer each, ordered by image, then key: int64 (B, n, d + 1).

    Also returns by how much the integer grows from a vertex to its neighbour along each of the d + 1 axes.
    """
    images, dim = keys.shape[0], keys.shape[-1]
    low = keys.amin((0, 1, 2)) - (dim + 1)
    spans = (keys.amax((0, 1, 2)) + (dim + 1) - low + 1).tolist()
    if images * math.prod(spans) >= 2**63:
        raise ValueError(f"features of {dim} dimensions span {spans} vertices, more than an integer can number")
    strides = [math.prod(spans[i + 1 :]) for i in range(dim)]
    packed = (math.prod(spans) * torch.arange(images, device=keys.device)).view(-1, 1, 1).expand(keys.shape[:3]).clone()
    for i, (stride, least) in enumerate(zip(strides, low.tolist())):
        packed += (keys[..., i] - least) * stride
    return packed, [(dim + 1) * stride - sum(strides) for stride in strides] + [-sum(strides)]


def _blur(vertices: Tensor, step: int) -> Tensor:
    """Adds to each of the sorted vertices (m,) half of both neighbours along an axis; a missing one counts 0."""
    wanted = torch.stack([vertices - abs(step), vertices, vertices + abs(step)], 1)
    place = torch.searchsorted(vertices, wanted).clamp(max=len(vertices) - 1)
    there = vertices[place] == wanted
    values = torch.tensor([0.5, 1.0, 0.5], device=vertices.device).expand(there.shape)[there]
    return _csr(_starts(there.sum(1)), place[there], values, (len(vertices), len(vertices)))


def _starts(counts: Tensor) -> Tensor:
    return torch.cat([counts.new_zeros(1), counts.cumsum(0)])


def _csr(starts: Tensor, columns: Tensor, values: Tensor, size: tuple[int, ...]) -> Tensor:
    return torch.sparse_csr_tensor(starts.int(), columns.int(), values, size, check_invariants=False)


def _float32(value: float) -> float:
    return float(torch.tensor(value, dtype=torch.float32))
