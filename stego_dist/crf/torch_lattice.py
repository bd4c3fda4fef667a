"""High-dimensional Gaussian filtering on the permutohedral lattice (Adams et al., 2010) as sparse matrices in torch.

In: the features of the points of some images. Out: `Lattice`, whose filter is slice · blurs · splat, normalised
symmetrically, as the library of Krähenbühl and Koltun (2011) computes it: the same elevation and rounding, the same
vertices, one blur along each axis in turn. Where that library hashes keys, keys are packed into integers and sorted.

1. each point's simplex: d + 1 vertices and its weights on them;
2. the distinct vertices, numbered as the points come to them, so that what is near in the image is near in memory;
3. the matrices: points to vertices, vertices to their neighbours along each axis, vertices to points.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from stego_dist.crf.sparse import Sparse, make_sparse

LANES = 4
"""The library pads an image's points to a multiple of this with points at the origin."""


@dataclass(frozen=True)
class Lattice:
    """The operators of n points on m vertices. The filter is `slice` of what `spread` gives."""

    splat: Sparse
    """(m, n)"""
    blurs: tuple[Sparse, ...]
    """(m, m), one for each of the d + 1 axes."""
    slice: Sparse
    """(n, m)"""

    def scratch(self, channels: int) -> tuple[Tensor, Tensor]:
        """What `spread` works in, for values of so many channels."""
        shape, like = (len(self.splat.starts) - 1, channels), self.splat.values
        return like.new_zeros(shape), like.new_zeros(shape)

    def spread(self, values: Tensor, scratch: tuple[Tensor, Tensor]) -> Tensor:
        """Float32 values (n, C) on the vertices, blurred: (m, C), one of the two of `scratch`."""
        now, then = scratch
        self.splat.put_product(now, values)
        for blur in self.blurs:
            blur.put_product(then, now)
            now, then = then, now
        return now


def build_lattice(features: Tensor, weight: float) -> Lattice:
    """The lattice of features float32 (B, n, d) of B images: points b·n … b·n + n − 1 are those of image b.

    Features are in units of the kernel's standard deviation. What the filter gives is multiplied by `weight`.
    Raises ValueError: features so far apart that their vertices can't be numbered.
    """
    images, points, dim = features.shape
    padded = torch.cat([features, features.new_zeros(images, -points % LANES and 1, dim)], 1)
    nearest, rank, weights = _simplex(padded.view(-1, dim))
    packed, steps = _pack(nearest, rank, images)
    point = torch.arange(images * points, device=features.device).view(images, points)
    weights = weights.view(images, -1, dim + 1)
    if padded.shape[1] > points:  # it has vertices, but nothing to put there
        weights[:, points] = 0
        point = torch.cat([point, point[:, :1]], 1)

    vertices, of_corner, splat_starts, splat_order = _number(packed)
    size = len(vertices.keys), images * points
    splat = make_sparse(splat_starts, point.view(-1)[splat_order // (dim + 1)], weights.view(-1)[splat_order], size)
    columns, weights = (t.view(images, -1, dim + 1)[:, :points].reshape(-1) for t in (of_corner, weights))
    rows = torch.arange(0, len(columns) + 1, dim + 1, device=columns.device)
    slicing = make_sparse(rows, columns, weights / (1 + 2.0**-dim), size[::-1])
    lattice = Lattice(splat, tuple(vertices.blur(step) for step in steps), slicing)

    norm = features.new_zeros(images * points, 1)
    ones = lattice.spread(torch.ones_like(norm), lattice.scratch(1))
    for block in slicing.blocks:
        block.add_product(norm[block.rows], ones)
    norm = (norm[:, 0] + 1e-20).rsqrt()
    splat.values.mul_(norm[splat.columns])
    slicing.values.mul_((weight * norm).repeat_interleave(dim + 1))
    return lattice


def _simplex(features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The d + 1 vertices around each of n features (n, d).

    Returns the nearest lattice point of remainder 0, int64 (d + 1, n), each coordinate's rank among the distances to
    it (d + 1, n), and the point's weights on its vertices (n, d + 1).
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
    rank = rounded.sum(0).repeat(dim + 1, 1)  # how far the rounded point is off the plane
    for i in range(dim):
        for j in range(i + 1, dim + 1):
            smaller = (rest[i] < rest[j]).float()
            rank[i] += smaller
            rank[j] += 1 - smaller
    back = ((rank < 0).float() - (rank > dim).float()) * (dim + 1)
    rank, nearest = (rank + back).long(), nearest + back

    shares = torch.empty_like(elevated).scatter_(0, rank, (elevated - nearest) * _float32(1 / (dim + 1)))
    weights = features.new_empty(points, dim + 1)
    weights[:, 0] = shares[dim] + (1 - shares[0])
    weights[:, 1:] = (shares[:-1] - shares[1:]).flip(0).T
    return nearest.long(), rank, weights


def _pack(nearest: Tensor, rank: Tensor, images: int) -> tuple[Tensor, list[int]]:
    """The first d coordinates of every vertex as one integer, ordered by image, then coordinates: int64 (n·(d + 1),).

    From one vertex of a simplex to the next all coordinates grow by 1, but the one whose turn it is falls by d. Also
    returns by how much the integer grows from a vertex to its neighbour along each of the d + 1 axes.
    """
    dim, points = len(nearest) - 1, nearest.shape[1]
    low = nearest[:dim].amin(1) - 2 * (dim + 1)
    spans = (nearest[:dim].amax(1) + 2 * (dim + 1) - low + 1).tolist()
    each = math.prod(spans)
    if images * each >= 2**63:
        raise ValueError(f"features of {dim} dimensions span {spans} vertices, more than an integer can number")
    strides = [math.prod(spans[i + 1 :]) for i in range(dim)]
    packed = torch.empty(points, dim + 1, dtype=torch.int64, device=nearest.device)
    packed[:, 0] = (torch.arange(images, device=nearest.device) * each).repeat_interleave(points // images)
    for i, (stride, least) in enumerate(zip(strides, low.tolist())):
        packed[:, 0] += (nearest[i] - least) * stride
    falls = torch.tensor([*strides, 0], device=nearest.device)[:, None].expand(-1, points)
    by_rank = torch.empty_like(rank).scatter_(0, rank, falls)
    for corner in range(dim):
        packed[:, corner + 1] = packed[:, corner] + (sum(strides) - (dim + 1) * by_rank[dim - corner])
    return packed.view(-1), [(dim + 1) * stride - sum(strides) for stride in strides] + [-sum(strides)]


@dataclass(frozen=True)
class _Vertices:
    """The distinct vertices, sorted by key, and how they are numbered."""

    keys: Tensor
    by_number: Tensor
    """For each number the place in `keys`."""
    number: Tensor
    """For each place in `keys` the number."""

    def blur(self, step: int) -> Sparse:
        """Adds to each vertex half of both neighbours along the axis of this step; a missing one counts 0."""
        count, wanted = len(self.keys), self.keys + abs(step)
        place = torch.searchsorted(self.keys, wanted).clamp_(max=count - 1)
        found = (self.keys[place] == wanted).nonzero()[:, 0]
        lower, upper = self.number[found], self.number[place[found]]
        has_lower = torch.zeros_like(self.keys)
        has_lower[upper] = 1
        counts = 1 + has_lower
        counts[lower] += 1
        starts = _starts(counts)
        columns = torch.empty(int(starts[-1]), dtype=torch.int64, device=starts.device)
        columns[starts[:-1]] = torch.arange(count, device=starts.device)
        columns[starts[upper] + 1] = lower
        columns[starts[lower] + 1 + has_lower[lower]] = upper
        values = torch.full(columns.shape, 0.5, device=starts.device)
        values[starts[:-1]] = 1
        return make_sparse(starts, columns, values, (count, count))


def _number(packed: Tensor) -> tuple[_Vertices, Tensor, Tensor, Tensor]:
    """Find the distinct ones of the corners' keys (c,) and number them in the order of their first corner.

    Returns the vertices; each corner's number (c,); and the corners sorted by number: starts (m + 1,) and order (c,).
    """
    ordered, order = packed.sort(stable=True)
    keys, counts = torch.unique_consecutive(ordered, return_counts=True)
    starts = _starts(counts)
    by_number = order[starts[:-1]].argsort()
    number = torch.empty_like(by_number)
    number[by_number] = torch.arange(len(number), device=number.device)
    of_corner = torch.empty_like(order)
    of_corner[order] = number.repeat_interleave(counts)
    counts = counts[by_number]
    moved = _starts(counts)
    shift = (starts[by_number] - moved[:-1]).repeat_interleave(counts)
    return (
        _Vertices(keys, by_number, number),
        of_corner,
        moved,
        order[shift + torch.arange(len(order), device=order.device)],
    )


def _starts(counts: Tensor) -> Tensor:
    return torch.cat([counts.new_zeros(1), counts.cumsum(0)])


def _float32(value: float) -> float:
    return float(torch.tensor(value, dtype=torch.float32))
