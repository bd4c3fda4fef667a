"""The linear probe's loss against torch's own operations, and its estimate against its exact value."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from stego_dist.losses import linear
from stego_dist.losses.draws import draw_lines
from stego_dist.losses.linear import IGNORED, count_labelled, linear_loss_drawn, linear_loss_full

SIZE = (20, 23)


def inputs(dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    labels = torch.randint(0, 5, (3, *SIZE), dtype=torch.uint8)
    labels[labels == 4] = IGNORED
    return torch.randn(3, 4, 5, 6, dtype=dtype, requires_grad=True), labels


def reference(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    full = F.interpolate(logits, SIZE, mode="bilinear", align_corners=False)
    return F.cross_entropy(full, labels.long(), ignore_index=IGNORED, reduction="sum")


@pytest.mark.parametrize("chunk", [1, 2 * 4 * SIZE[0] * SIZE[1], linear.CHUNK])
def test_full_equals_cross_entropy_of_resized_logits(monkeypatch, chunk):
    """Whatever the number of images that are worked on at a time."""
    monkeypatch.setattr(linear, "CHUNK", chunk)
    logits, labels = inputs()
    losses = linear_loss_full(logits, labels), reference(logits, labels)
    torch.testing.assert_close(*losses)
    torch.testing.assert_close(*(torch.autograd.grad(3 * loss, logits)[0] for loss in losses))


def test_its_gradient_is_its_derivative():
    logits, labels = inputs(torch.float64)
    assert torch.autograd.gradcheck(lambda x: linear_loss_full(x, labels), (logits,))


def test_large_logits_do_not_overflow():
    logits, labels = inputs()
    torch.testing.assert_close(linear_loss_full(logits * 1e3, labels), reference(logits * 1e3, labels))


def test_every_row_and_column_drawn_is_the_full_loss():
    logits, labels = inputs()
    rows, columns = (torch.arange(n).repeat(3, 1) for n in SIZE)
    losses = linear_loss_drawn(logits, labels, rows, columns), linear_loss_full(logits, labels)
    torch.testing.assert_close(*losses)
    torch.testing.assert_close(*(torch.autograd.grad(loss, logits)[0] for loss in losses))


def test_the_estimate_has_the_mean_of_the_full_loss():
    logits, labels = inputs()
    logits = logits.detach()
    labels[:, 5:11, 3:9] = IGNORED
    lines = draw_lines(seed=0, step=0, groups=range(2000), size=3, count=4, height=SIZE[0], width=SIZE[1])
    rows, columns = (line.view(2000, 3, 4) for line in lines)
    drawn = torch.stack([linear_loss_drawn(logits, labels, r, c) for r, c in zip(rows, columns)])
    error = (drawn.mean() - linear_loss_full(logits, labels)) / (drawn.std() / 2000**0.5)
    assert abs(float(error)) < 4 and float(drawn.std()) > 0


def test_without_labels_it_is_zero():
    logits, labels = inputs()
    labels[:] = IGNORED
    rows, columns = (torch.arange(4).repeat(3, 1) for _ in SIZE)
    assert int(count_labelled(labels)) == 0
    for loss in (linear_loss_full(logits, labels), linear_loss_drawn(logits, labels, rows, columns)):
        assert loss.item() == 0 and not torch.autograd.grad(loss, logits)[0].any()


def test_labelled_pixels_are_counted():
    _, labels = inputs()
    assert int(count_labelled(labels)) == int((labels != IGNORED).sum())
