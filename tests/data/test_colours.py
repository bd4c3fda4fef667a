"""Colours differ by as much as is promised, by two measures of what the eye sees."""

from __future__ import annotations

import numpy as np
import pytest

from stego_dist.data.colours import BLACK, distinct_colours, oklab


def cielab(rgb: np.ndarray) -> np.ndarray:
    """CIE L*a*b* (D65) of sRGB colours (n, 3)."""
    share = rgb / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    xyz = linear @ to_xyz.T / np.array([0.9505, 1, 1.089])
    f = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    return np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], 1)


def least_distance(lab: np.ndarray) -> float:
    distances = np.sqrt(np.square(lab[:, None] - lab[None]).sum(-1))
    return float(distances[np.triu_indices(len(lab), 1)].min())


def test_oklab_of_known_colours():
    """Ottosson's own values; grey has no colour."""
    found = oklab(np.array([[255, 255, 255], [255, 0, 0], [0, 0, 0]]))
    np.testing.assert_allclose(found, [[1, 0, 0], [0.627955, 0.224863, 0.125846], [0, 0, 0]], atol=1e-5)


@pytest.mark.parametrize(("count", "least", "least_cielab"), [(27, 0.13, 17), (64, 0.09, 10)])
def test_colours_keep_their_distance_from_each_other_and_from_black(count, least, least_cielab):
    found = np.array([BLACK, *distinct_colours(count)])
    assert least_distance(oklab(found)) >= least
    assert least_distance(cielab(found)) >= least_cielab


def test_they_keep_away_from_those_that_are_taken():
    taken = [(128, 64, 128), (70, 130, 180), (0, 130, 180), (107, 142, 35)]
    found = distinct_colours(23, taken)
    distances = np.sqrt(np.square(oklab(np.array(taken))[:, None] - oklab(np.array(found))[None]).sum(-1))
    assert distances.min() >= 0.13


def test_more_of_them_begin_alike_and_all_differ():
    assert distinct_colours(300)[:40] == distinct_colours(40)
    assert len(set(distinct_colours(3000))) == 3000 and distinct_colours(0) == []
