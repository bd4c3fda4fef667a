"""Counts of single images and what is chosen by them, against loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from stego_dist.engine import per_image
from stego_dist.engine.per_image import ImageCounts, ImageScore, as_classes, choose, evenly, image_scores, largest_in


def test_counts_of_each_image():
    rng = np.random.default_rng(0)
    matrices = rng.integers(0, 9, (6, 4, 3))
    counts = ImageCounts(6, 4, 3)
    for part in ([3, 0], [1], [5, 4, 2]):
        counts.add(part, torch.from_numpy(matrices[part]))
    assert sorted(counts.counts) == list(range(6))
    for i, matrix in counts.counts.items():
        np.testing.assert_array_equal(matrix, matrices[i])


def test_memory_is_bounded_by_leaving_images_out(monkeypatch):
    monkeypatch.setattr(per_image, "IMAGES", 5)
    counts = ImageCounts(9, 2, None)
    for i in range(9):
        counts.add([i], torch.tensor([[[0], [4]]]))
    assert sorted(counts.counts) == [0, 2, 4, 6, 8] == evenly(9, 5)
    assert all((matrix == [[0], [4]]).all() for matrix in counts.counts.values())
    monkeypatch.setattr(per_image, "NUMBERS", 12)
    assert len(ImageCounts(9, 2, 3).wanted) == 2 and evenly(3, 0) == []


def test_scores_of_single_images_take_the_matching_of_all():
    counts = {
        4: np.array([[3, 1, 0], [0, 4, 0], [2, 0, 0]], np.int32),  # clusters 0, 1, 2 → classes 0, 1, none
        7: np.array([[0, 0, 0], [0, 9, 0], [0, 0, 0]], np.int32),
        9: np.zeros((3, 3), np.int32),  # nothing labelled
    }
    best, second = image_scores(counts, [0, 1, -1])
    assert (best.id, best.accuracy, best.miou) == (7, 1.0, 1.0)
    assert second.id == 4 and second.accuracy == 0.7 and second.miou == pytest.approx((3 / 6 + 4 / 5) / 2)
    assert as_classes(counts[4].astype(np.int64), [0, 1, -1]).tolist() == [[3, 1, 0], [0, 4, 0], [0, 0, 0], [2, 0, 0]]


@pytest.mark.parametrize(
    ("images", "each", "wanted"),
    [
        (10, 3, ([0, 1, 2], [3, 4, 5], [9, 8, 7])),
        (9, 3, ([0, 1, 2], [3, 4, 5], [8, 7, 6])),
        (4, 3, ([0], [1], [3])),
        (2, 3, ([0], [], [1])),
        (1, 3, ([0], [], [])),
        (5, 0, ([], [], [])),
    ],
)
def test_best_median_and_worst_do_not_meet(images, each, wanted):
    ranked = [ImageScore(i, 1 - i / 10, 0.0) for i in range(images)]
    chosen = choose(ranked, each)
    assert tuple([score.id for score in chosen[rank]] for rank in ("best", "median", "worst")) == wanted


def test_where_a_cluster_is_largest():
    counts = {0: np.array([[1], [3]]), 1: np.array([[4], [0]]), 2: np.array([[3], [1]]), 3: np.array([[1], [3]])}
    assert largest_in(counts, 1, 2) == [(0, 0.75), (3, 0.75)]
    assert largest_in(counts, 0, 9) == [(1, 1.0), (2, 0.75), (0, 0.25), (3, 0.25)]
    assert largest_in({0: np.array([[4], [0]])}, 1, 3) == []
