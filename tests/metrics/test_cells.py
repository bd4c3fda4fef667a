"""Counts by cells are those of every resized pixel."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from stego_dist.metrics.cells import count_resized, cut_labels
from stego_dist.metrics.confusion import confusion


def by_pixel(scores, labels, size, classes):
    resized = F.interpolate(scores, size, mode="bilinear", align_corners=False)
    winners = resized[..., : labels.shape[1], : labels.shape[2]].argmax(1)
    return torch.stack([confusion(w, label, scores.shape[1], classes) for w, label in zip(winners, labels)])


@pytest.mark.parametrize("r", [1, 2, 3, 7, 16])
@pytest.mark.parametrize("smooth", [False, True])
def test_counts_are_those_of_every_pixel(r, smooth):
    rng = torch.Generator().manual_seed(r)
    scores = torch.randn(3, 5, 6, 4, generator=rng)
    if smooth:
        scores = F.interpolate(torch.randn(3, 5, 2, 2, generator=rng), (6, 4), mode="bilinear")
    labels = torch.randint(-1, 4, (3, 6 * r, 4 * r), generator=rng).to(torch.int16)
    cells = cut_labels(labels, 4, (6, 4))
    assert torch.equal(count_resized(scores, cells), by_pixel(scores, labels, (6 * r, 4 * r), 4))


def test_images_that_were_padded_are_counted_where_they_are():
    rng = torch.Generator().manual_seed(0)
    scores, labels = torch.randn(2, 3, 4, 5, generator=rng), torch.randint(-1, 2, (2, 29, 33), generator=rng)
    cells = cut_labels(labels, 2, (4, 5), (32, 40))
    counts = count_resized(scores, cells)
    assert torch.equal(counts, by_pixel(scores, labels, (32, 40), 2)) and counts.sum() == (labels >= 0).sum()


def test_the_first_of_equal_scores_wins():
    labels = torch.zeros(1, 8, 8, dtype=torch.int16)
    counts = count_resized(torch.ones(1, 3, 2, 2), cut_labels(labels, 1, (2, 2)))
    assert counts.tolist() == [[[64], [0], [0]]]


def test_labels_that_do_not_fit_are_refused():
    labels = torch.zeros(1, 9, 8, dtype=torch.int16)
    assert cut_labels(labels, 2, (2, 2)) is None  # no whole number of pixels between positions
    with pytest.raises(ValueError, match="labels up to 2 don't fit 2 classes"):
        cut_labels(labels[:, :8] + 2, 2, (2, 2))
