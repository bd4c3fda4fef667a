"""The label-free score against plain restatements of its definition."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from stego_dist.metrics.label_free import code_moments, label_free_score, mutual_information, self_random_gap


def information_by_hand(a: list[int], b: list[int]) -> float:
    n, total = len(a), 0.0
    for x in set(a):
        for y in set(b):
            both = sum(p == x and q == y for p, q in zip(a, b)) / n
            if both:
                total += both * math.log(both / ((a.count(x) / n) * (b.count(y) / n)))
    return total


def test_mutual_information_is_its_definition():
    rng = np.random.default_rng(0)
    a = rng.integers(0, 4, 300)
    b = np.where(rng.random(300) < 0.6, a, rng.integers(0, 4, 300))
    joint = np.zeros((5, 5), np.int64)  # one cluster stays unused
    np.add.at(joint, (a, b), 1)
    assert mutual_information(joint) == pytest.approx(information_by_hand(a.tolist(), b.tolist()), abs=1e-12)


def test_information_at_its_ends():
    assert mutual_information(np.eye(7, dtype=np.int64) * 3) == pytest.approx(math.log(7))
    assert mutual_information(np.ones((4, 4), np.int64)) == 0
    assert mutual_information(np.zeros((4, 4), np.int64)) == 0


def test_the_gap_is_that_of_all_pairs():
    torch.manual_seed(0)
    code = torch.randn(4, 5, 3, 2) + torch.randn(4, 5, 1, 1)
    points = F.normalize(code.double(), dim=1).flatten(2).transpose(1, 2)  # (image, position, channel)
    cosines = torch.einsum("ipc,jqc->ijpq", points, points).mean((2, 3))
    own = cosines.diagonal().mean()
    random = (cosines.sum() - cosines.trace()) / 12
    moments = code_moments(code[:3]) + code_moments(code[3:])  # shares of two processes
    assert self_random_gap(moments) == pytest.approx(float(own - random), abs=1e-12)
    with pytest.raises(ValueError, match="two images"):
        self_random_gap(code_moments(code[:1]))


def test_the_score_is_high_for_clusters_and_zero_for_collapse():
    steady = np.diag([30, 30, 40])
    assert label_free_score(steady, 0.5) == pytest.approx(0.5 * information_by_hand([0] * 30 + [1] * 30 + [2] * 40,
                                                          [0] * 30 + [1] * 30 + [2] * 40) / math.log(3))  # fmt: skip
    one_cluster = np.zeros((3, 3), np.int64)
    one_cluster[1, 1] = 100
    assert label_free_score(one_cluster, 0.5) == 0
    same_codes = code_moments(torch.ones(4, 5, 3, 2))
    assert label_free_score(steady, self_random_gap(same_codes)) == pytest.approx(0, abs=1e-12)
    assert label_free_score(steady, -0.3) == 0 and label_free_score(steady, math.nan) == 0
