"""Multinomial logistic regression to convergence: the linear probe that no learning rate or number of steps decides.

Codes are standardised, so that L-BFGS converges in some hundred steps and the ridge means the same for every code; the
standardisation is folded into the weights at the end. Everything is float64 and deterministic.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

RIDGE = 1e-5
"""Of half the squared weights of standardised codes, beside the mean cross-entropy: makes the optimum exist."""
GRADIENT = 1e-5
"""Largest component of the gradient at which the optimum counts as found."""
STEPS = 1000
"""Most steps of L-BFGS."""
CHUNK = 1 << 16
"""Positions whose logits are in memory at a time."""

Sum = Callable[[Tensor], Tensor]
"""A tensor summed over all ranks."""


@dataclass(frozen=True)
class Fit:
    """A linear classifier of codes, and how it was found."""

    weight: Tensor
    """float64 (K, C)"""
    bias: Tensor
    """float64 (K,)"""
    loss: float
    """Mean cross-entropy over the positions of all ranks."""
    gradient: float
    """Largest component of the gradient of the loss and the ridge, in standardised codes."""
    steps: int


def fit_logistic(codes: Tensor, labels: Tensor, classes: int, total: Sum = lambda t: t) -> Fit:
    """The classifier with the least mean cross-entropy of codes (P, C) and labels int64 (P,) in 0…classes − 1.

    A rank has some of the positions, possibly none; `total` sums over ranks. All ranks get the same. Raises ValueError
    when there is no position at all.
    """
    codes, dim = codes.double(), codes.shape[1]
    count = total(torch.tensor(float(len(codes)), dtype=torch.float64, device=codes.device))
    if count == 0:
        raise ValueError("there are no labelled positions")
    mean = total(codes.sum(0)) / count
    deviation = (total((codes - mean).square().sum(0)) / count).sqrt()
    deviation[deviation == 0] = 1
    codes = (codes - mean) / deviation
    flat = torch.zeros(classes * (dim + 1), dtype=torch.float64, device=codes.device, requires_grad=True)
    optimiser = torch.optim.LBFGS(
        [flat], max_iter=STEPS, max_eval=2 * STEPS, tolerance_grad=GRADIENT, tolerance_change=1e-14, history_size=100,
        line_search_fn="strong_wolfe",
    )  # fmt: skip

    def loss_and_gradient() -> Tensor:
        parameters = flat.detach().view(classes, dim + 1)
        loss, gradient = _cross_entropy(codes, labels, parameters)
        both = total(torch.cat([loss.view(1), gradient.flatten()])) / count
        weights = F.pad(parameters[:, :dim], (0, 1))
        flat.grad = both[1:] + RIDGE * weights.flatten()
        return both[0] + RIDGE / 2 * weights.square().sum()

    optimiser.step(loss_and_gradient)  # type: ignore[no-untyped-call]
    loss = float(loss_and_gradient())
    assert flat.grad is not None
    parameters = flat.detach().view(classes, dim + 1)
    weight = parameters[:, :dim] / deviation
    bias = parameters[:, dim] - weight @ mean
    penalty = RIDGE / 2 * float(parameters[:, :dim].square().sum())
    steps = int(optimiser.state[flat]["n_iter"])
    return Fit(weight, bias, loss - penalty, float(flat.grad.abs().max()), steps)


def _cross_entropy(codes: Tensor, labels: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
    """Summed cross-entropy, and its gradient (K, C + 1), of weights and biases (K, C + 1)."""
    weight, bias = parameters[:, :-1], parameters[:, -1]
    loss, gradient = codes.new_zeros(()), torch.zeros_like(parameters)
    for some, wanted in zip(torch.split(codes, CHUNK), torch.split(labels, CHUNK)):
        log_probs = (some @ weight.T + bias).log_softmax(1)
        loss -= log_probs.gather(1, wanted[:, None]).sum()
        residual = log_probs.exp_()
        residual.scatter_add_(1, wanted[:, None], residual.new_full((len(some), 1), -1.0))
        gradient[:, :-1] += residual.T @ some
        gradient[:, -1] += residual.sum(0)
    return loss, gradient
