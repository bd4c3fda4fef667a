"""Windows cover everything and overlap; their blend depends on no order and shows no border."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

from stego_dist.inference.windows import Blend, Window, cover
from tests.inference.made import Contextual, Pointwise, model_of, picture


@pytest.mark.parametrize("height,width", [(1, 1), (7, 3), (8, 8), (9, 8), (30, 8), (23, 41), (8, 100)])
@pytest.mark.parametrize("side,overlap", [(8, 2), (8, 0), (8, 7), (1, 0)])
def test_cover(height, width, side, overlap):
    windows = cover(height, width, side, overlap)
    counts = np.zeros((height, width), int)
    for w in windows:
        assert min(w.top, w.left) >= 0
        assert w.top + w.height <= height and w.left + w.width <= width
        assert (w.height, w.width) == (min(side, height), min(side, width))
        counts[w.top : w.top + w.height, w.left : w.left + w.width] += 1
    assert counts.min() >= 1
    for starts, length in ((sorted({w.top for w in windows}), height), (sorted({w.left for w in windows}), width)):
        assert starts[0] == 0
        assert starts[-1] == max(0, length - side)
        assert all(a + side - b >= overlap for a, b in pairwise(starts))
        assert len(starts) == len(set(starts))


def test_one_window_where_the_grid_fits():
    assert cover(5, 8, 8, 2) == [Window(0, 0, 5, 8)]


def test_an_overlap_as_long_as_the_window_is_refused():
    with pytest.raises(ValueError):
        cover(9, 9, 4, 4)


def blended(windows, parts, size, order, overlap=3):
    blend = Blend(parts[0].shape[0], *size, windows, overlap)
    for number in order:
        assert not blend.done
        blend.add(number, parts[number])
    assert blend.done
    return blend.result()


def test_the_order_in_which_windows_come_does_not_matter():
    windows = cover(20, 17, 8, 3)
    rng = torch.Generator().manual_seed(0)
    parts = [torch.randn(2, w.height, w.width, generator=rng) for w in windows]
    first = blended(windows, parts, (20, 17), range(len(windows)))
    for seed in range(5):
        order = torch.randperm(len(windows), generator=torch.Generator().manual_seed(seed)).tolist()
        assert torch.equal(blended(windows, parts, (20, 17), order), first)


@pytest.mark.parametrize("side,overlap", [(8, 3), (8, 0), (5, 4)])
def test_cuts_of_a_map_give_the_map(side, overlap):
    whole = torch.randn(3, 20, 17, generator=torch.Generator().manual_seed(0))
    windows = cover(20, 17, side, overlap)
    parts = [whole[:, w.top : w.top + w.height, w.left : w.left + w.width] for w in windows]
    found = blended(windows, parts, (20, 17), range(len(windows)), overlap)
    assert torch.allclose(found, whole, atol=1e-6)
    constant = [torch.full_like(part, 7.0) for part in parts]
    assert torch.allclose(blended(windows, constant, (20, 17), range(len(windows)), overlap), torch.tensor(7.0))


def test_a_window_fades_towards_its_edges():
    windows = cover(1, 12, 8, 4)
    parts = [torch.zeros(1, 1, 8), torch.ones(1, 1, 8)]
    found = blended(windows, parts, (1, 12), [0, 1], 4)[0, 0]
    assert found[:4].eq(0).all() and found[8:].eq(1).all()
    assert torch.allclose(found[4:8], torch.tensor([0.125, 0.375, 0.625, 0.875]))


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("window", [16, 24, 44])
def test_windows_of_a_pointwise_backbone_leave_no_trace(window, flip):
    image = picture(90, 131)
    whole = model_of(Pointwise(), flip=flip)(image)
    parts = model_of(Pointwise(), flip=flip, window=window)(image)
    assert torch.allclose(parts.scores, whole.scores, atol=1e-6)
    assert torch.allclose(parts.lengths, whole.lengths, atol=1e-6)
    assert np.mean(parts.labels != whole.labels) < 1e-3  # ties


def test_labels_stay_with_the_content_when_the_windows_shift():
    """Another piece of a scene has its windows elsewhere; what both pieces show has the same labels."""
    blended, cut = [], []
    for seed in range(4):
        for overlap, found in ((4, blended), (0, cut)):
            image, shift = picture(140, 150, seed), 20
            model = model_of(Contextual(), window=64)
            model.overlap = overlap
            a, b = model(image).labels, model(image[shift:, shift:]).labels
            inner = slice(40, -40)  # away from the borders of either piece, which the backbone feels
            found.append(np.mean(a[shift:, shift:][inner, inner] != b[inner, inner]))
    assert np.mean(blended) < 0.05
    assert np.mean(blended) < 0.6 * np.mean(cut)  # what this test would see without blending


def jumps(scores, windows):
    """The largest step between neighbouring columns at the windows' borders, and the largest anywhere else."""
    steps = (scores[:, :, 1:] - scores[:, :, :-1]).abs().amax((0, 1))
    borders = {w.left for w in windows} | {w.left + w.width for w in windows}
    inside = [b - 1 for b in borders if 0 < b < scores.shape[2]]
    away = [i for i in range(6, len(steps) - 6) if i not in inside]
    return float(steps[inside].max()), float(steps[away].max())


def test_the_border_of_a_window_does_not_show():
    ramp = np.linspace(40, 220, 320)[None, :, None].repeat(64, 0).repeat(3, 2).astype(np.uint8)
    model = model_of(Contextual(), window=96)
    grid = (16, 80)
    windows = cover(*grid, model.side, model.overlap)
    assert len(windows) > 2
    at_borders, elsewhere = jumps(model(ramp).scores, windows)
    assert at_borders < 1.2 * elsewhere

    model.overlap = 0  # the same without blending: what this test would see
    at_borders, elsewhere = jumps(model(ramp).scores, cover(*grid, model.side, 0))
    assert at_borders > 1.7 * elsewhere
