"""Confusion, matching and scores against golden figures, torchmetrics and scipy's own brute force."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
import torchmetrics.functional.classification as tm

from stego_dist.metrics.confusion import confusion, scores
from stego_dist.metrics.matching import match_clusters, match_majority, match_published


def counts_of(case, rows=None):
    n = int(case["n_classes"])
    return confusion(torch.from_numpy(case["preds"]), torch.from_numpy(case["labels"]), rows or n, n).numpy()


@pytest.mark.parametrize("name", ["metrics_hungarian", "metrics_hungarian27"])
def test_hungarian_golden(golden, name):
    case = golden(name)
    counts = counts_of(case)
    assert np.array_equal(counts, case["out_stats_pred_by_label"])
    matched = match_clusters(counts)
    assert np.array_equal(matched.matrix, case["out_histogram"])
    assert list(matched.cluster_to_class) == list(case["out_cluster_to_class"])
    result = scores(matched.matrix)
    assert result.miou * 100 == pytest.approx(float(case["out_mIoU"]), rel=1e-5)
    assert result.accuracy * 100 == pytest.approx(float(case["out_accuracy"]), rel=1e-5)


def test_linear_golden(golden):
    case = golden("metrics_linear")
    result = scores(counts_of(case))
    assert result.miou * 100 == pytest.approx(float(case["out_mIoU"]), rel=1e-5)
    assert result.accuracy * 100 == pytest.approx(float(case["out_accuracy"]), rel=1e-5)


def test_published_counting_of_extra_clusters_golden(golden):
    case = golden("metrics_extra_published")
    counts = counts_of(case, rows=7)
    matched = match_published(counts)
    assert np.array_equal(np.pad(matched.matrix, ((0, 1), (0, 1))), case["out_histogram"].astype(int))
    result = scores(matched.matrix)
    assert result.miou * 100 == pytest.approx(float(case["out_mIoU"]), rel=1e-5)
    assert result.accuracy * 100 == pytest.approx(float(case["out_accuracy"]), rel=1e-5)
    assert match_clusters(counts).matrix.sum() == counts.sum() > matched.matrix.sum()


def test_matching_beats_every_other_assignment():
    rng = np.random.default_rng(0)
    for clusters, classes in ((4, 4), (5, 3), (3, 5)):
        counts = rng.integers(0, 50, (clusters, classes))
        matched = match_clusters(counts)
        assert matched.matrix.sum() == counts.sum()
        best = max(
            sum(counts[k, c] for k, c in zip(rows, columns))
            for rows in itertools.permutations(range(clusters), min(clusters, classes))
            for columns in itertools.combinations(range(classes), min(clusters, classes))
        )
        assert np.trace(matched.matrix[:classes]) == best
        assert sum(c >= 0 for c in matched.cluster_to_class) == min(clusters, classes)


def test_matching_by_majority():
    counts = np.array([[5, 1, 0], [4, 3, 3], [0, 0, 0], [0, 2, 2], [1, 0, 9]])
    matched = match_majority(counts)
    assert matched.cluster_to_class == (0, 0, -1, 1, 2)
    assert np.array_equal(matched.matrix, [[9, 4, 3], [0, 2, 2], [1, 0, 9]])
    one_to_one = match_clusters(counts)
    assert np.trace(matched.matrix) >= np.trace(one_to_one.matrix[:3])


def test_against_torchmetrics():
    rng = torch.Generator().manual_seed(0)
    pred, label = (torch.randint(0, 6, (3, 40, 50), generator=rng) for _ in range(2))
    label[torch.rand(label.shape, generator=rng) < 0.2] = -1
    counts = confusion(pred, label, 6, 6)
    reference = tm.multiclass_confusion_matrix(pred, label, 6, ignore_index=-1)
    assert torch.equal(counts.T, reference)
    result = scores(counts.numpy())
    jaccard = tm.multiclass_jaccard_index(pred, label, 6, ignore_index=-1, average="none")
    assert result.iou == pytest.approx(tuple(jaccard.tolist()))
    accuracy = tm.multiclass_accuracy(pred, label, 6, ignore_index=-1, average="micro")
    assert result.accuracy == pytest.approx(float(accuracy))


def test_absent_classes_and_no_labels():
    label = torch.tensor([[0, 0, -1, -1]])
    result = scores(confusion(torch.tensor([[0, 1, 2, 2]]), label, 4, 4).numpy())
    assert result.iou == (0.5, 0.0, None, None) and result.miou == 0.25
    empty = scores(confusion(torch.zeros(1, 4), torch.full((1, 4), -1), 4, 4).numpy())
    assert empty.accuracy is None and empty.miou is None


def test_ids_out_of_range_are_refused():
    with pytest.raises(ValueError, match="don't fit 2 × 2"):
        confusion(torch.tensor([0, 1]), torch.tensor([0, 2]), 2, 2)
