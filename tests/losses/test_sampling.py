"""Samples taken as rows of a table against torch's grid_sample."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from stego_dist.losses.draws import draw_step
from stego_dist.losses.sampling import bilinear, pair_images, pair_places, places_at

GRID = (5, 7)


def test_places_are_grid_samples_of_the_transposed_points():
    torch.manual_seed(0)
    maps, points = torch.randn(1, 4, *GRID), torch.rand(1, 6, 6, 2) * 2.4 - 1.2  # some beyond the border
    places = places_at(points, GRID)
    table = maps[0].flatten(1).T.contiguous()
    wanted = F.grid_sample(maps, points.transpose(1, 2), padding_mode="border", align_corners=True)
    torch.testing.assert_close(bilinear(table, places)[0], wanted[0].flatten(1).T)
    assert places.rows.min() >= 0 and places.rows.max() < GRID[0] * GRID[1]
    torch.testing.assert_close(places.weights.sum(-1), torch.ones(1, 36))


def test_the_gradient_goes_back_to_the_rows():
    torch.manual_seed(0)
    table = torch.randn(35, 4, dtype=torch.float64, requires_grad=True)
    places = places_at(torch.rand(3, 2, 2, 2, dtype=torch.float64) * 2 - 1, GRID)
    assert torch.autograd.gradcheck(lambda t: bilinear(t, places), (table,))


def test_pairs_are_the_anchor_the_others_and_the_neighbour():
    draws = draw_step(seed=0, step=0, groups=range(2), size=4, points=3, negatives=2, channels=3, dropout=0.0)
    anchors, neighbours = torch.randn(2, 8, 3, *GRID)
    table = torch.cat([anchors, neighbours]).flatten(2).transpose(1, 2).flatten(0, 1)
    found = bilinear(table, pair_places(draws.points, draws.points_other, draws.negatives, GRID))
    images = pair_images(draws.negatives)
    assert found.shape == (2, 4, 4, 9, 3)
    for group in range(2):
        for n in range(4):
            own, other = draws.points[group, n], draws.points_other[group, n]
            others = [int(draws.negatives[group, r, n]) + 4 * group for r in range(2)]
            assert images[group, n].tolist() == [4 * group + n, *others, 8 + 4 * group + n]
            wanted = [(anchors[4 * group + n], own), *((anchors[i], other) for i in others)]
            wanted.append((neighbours[4 * group + n], other))
            for k, (one, points) in enumerate(wanted):
                sampled = F.grid_sample(
                    one[None], points.transpose(0, 1)[None], padding_mode="border", align_corners=True
                )
                torch.testing.assert_close(found[group, n, k], sampled[0].flatten(1).T)
