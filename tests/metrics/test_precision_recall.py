"""Precision and recall against a loop over thresholds."""

from __future__ import annotations

import numpy as np
import pytest

from stego_dist.metrics.precision_recall import precision_recall


def brute_force(scores, same):
    """(precision, recall) at every distinct score, the highest first, and the sum of precision over gained recall."""
    points, average, before = [], 0.0, 0.0
    for threshold in sorted(set(scores.tolist()), reverse=True):
        taken = [bool(s) for score, s in zip(scores, same) if score >= threshold]
        precision, recall = sum(taken) / len(taken), sum(taken) / int(same.sum())
        average += (recall - before) * precision
        before = recall
        points.append((precision, recall))
    return np.array(points), average


@pytest.mark.parametrize("levels", [2, 7, 10_000])
@pytest.mark.parametrize("seed", range(4))
def test_equals_brute_force_with_ties_and_without(levels, seed):
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, levels, 120) / levels - 0.5
    same = rng.random(120) < 0.2 + 0.6 * (scores > 0)
    curve = precision_recall(scores, same)
    points, average = brute_force(scores, same)
    np.testing.assert_allclose(np.stack([curve.precision, curve.recall], 1), points)
    assert curve.average_precision == pytest.approx(average)


def test_torchmetrics_agrees():
    torch = pytest.importorskip("torch")
    functional = pytest.importorskip("torchmetrics.functional.classification")
    rng = np.random.default_rng(0)
    scores, same = rng.random(500), rng.random(500) < 0.3
    theirs = functional.binary_average_precision(torch.from_numpy(scores), torch.from_numpy(same).long())
    assert precision_recall(scores, same).average_precision == pytest.approx(float(theirs))


def test_the_extremes():
    same = np.array([True, True, False, False])
    assert precision_recall(np.array([4.0, 3.0, 2.0, 1.0]), same).average_precision == 1.0
    assert precision_recall(np.zeros(4), same).average_precision == 0.5  # no order: the share of same labels
    assert precision_recall(np.array([-np.inf, 0.0]), np.array([False, True])).average_precision == 1.0
    with pytest.raises(ValueError, match="no pair has the same label"):
        precision_recall(np.ones(2), np.zeros(2, bool))
    with pytest.raises(ValueError, match="not a number"):
        precision_recall(np.array([0.0, np.nan]), np.ones(2, bool))


def test_thinning_keeps_points_of_the_curve_and_its_ends():
    rng = np.random.default_rng(1)
    curve = precision_recall(rng.random(5000), rng.random(5000) < 0.5)
    thin = curve.thinned(50)
    assert 40 <= len(thin.recall) <= 50
    assert thin.recall[0] == curve.recall[0] and thin.recall[-1] == 1.0 == curve.recall[-1]
    points = set(zip(curve.recall.tolist(), curve.precision.tolist()))
    assert points >= set(zip(thin.recall.tolist(), thin.precision.tolist()))
    assert np.diff(thin.recall).max() < 0.03 and curve.thinned(10_000) is curve
