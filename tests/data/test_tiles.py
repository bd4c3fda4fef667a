from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError

from stego_dist.data.tiles import Tiling


@pytest.mark.parametrize("size", [(12, 8), (13, 9), (40, 7), (5, 5), (100, 3)])
@pytest.mark.parametrize(("side", "overlap", "shrink"), [(4, 0, 1), (4, 1, 1), (5, 4, 1), (3, 1, 2), (6, 0, 3)])
def test_every_pixel_is_in_a_tile_and_tiles_are_of_one_size(size, side, overlap, shrink):
    width, height = size
    tiles = Tiling(size=side, overlap=overlap, shrink=shrink).tiles(width, height)
    covered = np.zeros((height, width), int)
    for tile in tiles:
        left, top, right, bottom = tile.box
        assert 0 <= left < right <= width and 0 <= top < bottom <= height
        assert (right - left) // shrink == min(side, width // shrink)
        assert (bottom - top) // shrink == min(side, height // shrink)
        assert left % shrink == top % shrink == 0
        covered[top:bottom, left:right] += 1
    assert (covered[: height // shrink * shrink, : width // shrink * shrink] > 0).all()
    assert len({(tile.row, tile.column) for tile in tiles}) == len({tile.box for tile in tiles}) == len(tiles)
    fits = (width // shrink) % side == (height // shrink) % side == 0
    if overlap == 0 and fits and shrink == 1:
        assert (covered == 1).all() and sum(tile.share for tile in tiles) == pytest.approx(1)


def test_the_published_cut_of_potsdam():
    tiles = Tiling(size=200, shrink=2).tiles(6000, 6000)
    assert len(tiles) == 15 * 15
    last = tiles[-1]
    assert (last.row, last.column, last.box) == (14, 14, (5600, 5600, 6000, 6000))
    assert len(Tiling(size=200).tiles(6000, 6000)) == 30 * 30


def test_overlaps_and_the_border():
    assert [tile.box[::2] for tile in Tiling(size=10, overlap=4).tiles(25, 10)] == [
        (0, 10),
        (6, 16),
        (12, 22),
        (15, 25),
    ]
    with pytest.raises(ValidationError, match="cannot overlap by 10"):
        Tiling(size=10, overlap=10)
