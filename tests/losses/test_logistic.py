"""Logistic regression to convergence: the gradient vanishes, nothing does better, ranks don't matter."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from stego_dist.losses.logistic import RIDGE, fit_logistic


def problem(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 3, (400,), generator=rng)
    means = torch.randn(3, 5, generator=rng)
    scales = torch.tensor([1.0, 10.0, 0.1, 1.0, 0.0])  # badly conditioned, and one column that says nothing
    return (means[labels] + 1.5 * torch.randn(400, 5, generator=rng)) * scales + 3, labels


def test_it_is_the_optimum():
    codes, labels = problem()
    fit = fit_logistic(codes, labels, 3)
    assert fit.gradient < 1e-5 and 0 < fit.steps < 1000
    weight, bias = fit.weight.clone().requires_grad_(), fit.bias.clone().requires_grad_()
    deviation = codes.double().std(0, correction=0)
    ridge = RIDGE / 2 * (weight * deviation).square().sum()
    loss = F.cross_entropy(codes.double() @ weight.T + bias, labels)
    assert float(loss.detach()) == pytest.approx(fit.loss, rel=1e-9)
    by_weight, by_bias = torch.autograd.grad(loss + ridge, (weight, bias))
    assert (by_weight * deviation.clamp(min=1e-9)).abs().max() < 1e-3 and by_bias.abs().max() < 1e-5
    adam = torch.zeros(3, 6, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.Adam([adam], lr=0.05)
    whitened = (codes.double() - codes.double().mean(0)) / deviation.clamp(min=1e-9)
    for _ in range(2000):
        optimiser.zero_grad()
        loss = F.cross_entropy(whitened @ adam[:, :5].T + adam[:, 5], labels)
        loss.backward()
        optimiser.step()
    assert fit.loss <= float(loss.detach()) + 1e-6 < fit.loss + 1e-3


def test_separable_classes_have_an_optimum_too():
    codes = torch.tensor([[0.0], [1.0], [2.0], [3.0]])
    fit = fit_logistic(codes, torch.tensor([0, 0, 1, 1]), 2)
    assert fit.weight.isfinite().all() and fit.loss < 0.01


def test_parts_of_ranks_add_up():
    codes, labels = problem(1)
    whole = fit_logistic(codes, labels, 3)
    parts = [(codes[:150], labels[:150]), (codes[150:], labels[150:])]
    sums = []

    def record(value):
        sums.append(value)
        return value

    fit_logistic(codes, labels, 3, record)
    # what two ranks would sum is what one computes, for the first three sums: count, mean, variance
    mean = codes.double().mean(0)
    for number, piece in enumerate(
        (lambda c: torch.tensor(float(len(c))), lambda c: c.double().sum(0), lambda c: (c - mean).square().sum(0))
    ):
        torch.testing.assert_close(sum(piece(c) for c, _ in parts).double(), sums[number])
    order = torch.randperm(400, generator=torch.Generator().manual_seed(2))
    shuffled = fit_logistic(codes[order], labels[order], 3)
    torch.testing.assert_close(shuffled.weight, whole.weight, rtol=1e-3, atol=1e-4)
    with pytest.raises(ValueError, match="no labelled positions"):
        fit_logistic(codes[:0], labels[:0], 3)
