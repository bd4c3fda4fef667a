"""The label-free score against plain restatements of its definition."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from stego_dist.metrics.label_free import (
    code_sum,
    information,
    jackknife_error,
    label_free_score,
    middle,
    mutual_information,
    spread,
)


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


def test_the_spread_is_that_of_all_pairs():
    torch.manual_seed(0)
    code = torch.randn(4, 5, 3, 2) + torch.randn(4, 5, 1, 1)
    unit = F.normalize(code.double(), dim=1).movedim(1, -1).flatten(0, 2)
    summed = code_sum(code[:3]) + code_sum(code[3:])  # shares of two processes
    assert spread(summed) == pytest.approx(1 - float((unit @ unit.T).mean()), abs=1e-12)
    assert spread(code_sum(torch.ones(4, 5, 3, 2))) == pytest.approx(0, abs=1e-12)
    assert spread(torch.zeros(6)) == 0


def test_the_middle_of_codes_lies_where_the_enlarged_view_shows_it():
    rows = torch.arange(8.0).view(1, 1, 8, 1).expand(1, 1, 8, 8)  # value: the row
    found = middle(rows, 0.5)
    assert found.shape == rows.shape
    assert found[0, 0, :, 3].tolist() == pytest.approx([1.75 + 0.5 * n for n in range(8)], abs=1e-5)
    assert torch.allclose(middle(rows, 1.0), rows, atol=1e-5)


def test_the_score_is_high_for_clusters_found_again_and_zero_for_collapse():
    steady = np.diag([30, 30, 40])
    entropy = information_by_hand(*([[0] * 30 + [1] * 30 + [2] * 40] * 2)) / math.log(3)
    assert label_free_score(steady) == pytest.approx(entropy)
    renamed = np.roll(steady, 1, axis=1)  # as informative, but no place keeps its cluster
    assert label_free_score(renamed) == 0
    one_cluster = np.zeros((3, 3), np.int64)
    one_cluster[1, 1] = 100
    assert label_free_score(one_cluster) == 0
    assert label_free_score(np.array([[5]])) == 0 and label_free_score(np.zeros((3, 3), np.int64)) == 0
    blurred = steady + 5
    assert 0 < label_free_score(blurred) < information(blurred) < information(steady)
    assert label_free_score(blurred) == pytest.approx(information(blurred) * 115 / 145)


def test_the_error_is_the_jackknife_over_parts():
    rng = np.random.default_rng(3)
    joint = rng.integers(1, 9, (4, 3, 3)) + 9 * np.eye(3, dtype=np.int64)
    without = [label_free_score(np.delete(joint, part, 0).sum(0)) for part in range(4)]
    error = math.sqrt(3 / 4 * np.square(without - np.mean(without)).sum())
    assert jackknife_error(joint) == pytest.approx(error)
    assert jackknife_error(joint[:1]) == 0
