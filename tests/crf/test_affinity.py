"""The pairwise kernel by its formula, pair by pair."""

from __future__ import annotations

import math

import numpy as np
import pytest

from stego_dist.crf.affinity import log_affinity


def test_equals_the_formula():
    rng = np.random.default_rng(0)
    xy, rgb = rng.integers(0, 12, (5, 2)).astype(float), rng.integers(0, 20, (5, 3)).astype(float)
    found = log_affinity(xy[:, None], rgb[:, None], xy[None], rgb[None])
    for i in range(5):
        for j in range(5):
            d = (xy[i][0] - xy[j][0]) ** 2 + (xy[i][1] - xy[j][1]) ** 2
            c = sum((a - b) ** 2 for a, b in zip(rgb[i], rgb[j]))
            wanted = 3 * math.exp(-d / 2) + 4 * math.exp(-d / (2 * 67**2) - c / (2 * 3**2))
            assert math.exp(found[i, j]) == pytest.approx(wanted)


def test_far_pixels_of_other_colours_keep_their_order():
    here, black = np.zeros(2), np.zeros(3)
    far = log_affinity(here, black, np.array([[300.0, 300], [310, 310]]), np.full((2, 3), 255.0))
    assert np.isfinite(far).all() and far[0] > far[1]
