"""The step: gradients reach what they should, distribution and precision change nothing that matters."""

from __future__ import annotations

import pytest
import torch

from stego_dist.engine.step import LossSettings, TrainStep, parameter_groups, signed_labels
from stego_dist.losses.draws import draw_lines, draw_step
from stego_dist.losses.linear import IGNORED, count_labelled, linear_loss_drawn, linear_loss_full
from stego_dist.models.segmenter import Segmenter
from tests.benchmarks.published import PublishedStep, head_codes

SETTINGS = LossSettings(weights=(0.7, 0.3, 0.6), shifts=(0.2, 0.1, 0.4))


def make(seed: int = 0, classes: int | None = 3, **kwargs):
    torch.manual_seed(seed)
    segmenter = Segmenter(dim=8, code_dim=5, projection="nonlinear", num_clusters=4, num_classes=classes)
    return TrainStep(segmenter, LossSettings(**{**SETTINGS.__dict__, **kwargs}))


def inputs(groups: range = range(2), size: int = 4, seed: int = 0):
    torch.manual_seed(seed)
    rows = slice(groups.start * size, groups.stop * size)
    feats, knn = torch.randn(2, 2 * size, 8, 6, 6)
    labels = torch.randint(0, 4, (2 * size, 24, 24), dtype=torch.uint8)
    labels[labels == 3] = IGNORED
    labels[:size] = IGNORED  # the first group has none
    draws = draw_step(seed=0, step=0, groups=groups, size=size, points=3, negatives=2, channels=8, dropout=0.1)
    return feats[rows], knn[rows], draws, labels[rows]


def gradients(step, total):
    return torch.autograd.grad(total, list(step.parameters()))


def test_two_ranks_average_to_one():
    """The gradient of one process is the mean over two, although only one of them has labels."""
    step = make()
    f, k, draws, labels = inputs()
    counted = count_labelled(labels)
    whole = gradients(step, step(f, k, draws, labels, 1 / counted)[0])
    parts = []
    for rank in range(2):
        f, k, draws, labels = inputs(range(rank, rank + 1))
        parts.append(gradients(step, step(f, k, draws, labels, 2 / counted)[0]))
    for one, two in zip(whole, zip(*parts)):
        torch.testing.assert_close(one, torch.stack(two).mean(0), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("count", [None, 5])
def test_linear_loss_is_the_mean_over_labelled_pixels(count):
    step = make()
    f, k, draws, labels = inputs()
    counted = count_labelled(labels)
    lines = count and draw_lines(seed=0, step=0, groups=range(2), size=4, count=count, height=24, width=24)
    log = step(f, k, draws, labels, 1 / counted, lines)[1]
    code = head_codes(step.segmenter, f, draws.keep.flatten(0, 1)[:, 0])
    logits = step.segmenter.linear(code)
    total = linear_loss_drawn(logits, labels, *lines) if lines else linear_loss_full(logits, labels)
    torch.testing.assert_close(log["loss/linear"], (total / counted).detach())


@pytest.mark.parametrize(("centring", "clamp"), [(True, "zero"), (False, "none"), (True, "stabilised")])
def test_it_is_the_published_step(centring, clamp):
    """Loss and every gradient, against the plain restatement that the benchmark measures against."""
    step = make(centring=centring, clamp=clamp)
    f, k, draws, labels = inputs(range(1, 2))
    loss = step(f, k, draws, labels, 1 / count_labelled(labels))[0]
    published = PublishedStep(step.segmenter, step.settings)(f, k, draws, labels)
    torch.testing.assert_close(loss, published)
    for one, other in zip(gradients(step, loss), gradients(step, published)):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_probe_losses_do_not_move_the_head():
    step = make(weights=(0.0, 0.0, 0.0))
    f, k, draws, labels = inputs()
    step(f, k, draws, labels, 0.1)[0].backward()
    assert all(p.grad is None or not p.grad.any() for p in step.segmenter.head.parameters())
    assert step.segmenter.cluster.centres.grad.any() and step.segmenter.linear.conv.weight.grad.any()


def test_without_classes_there_is_no_linear_probe():
    step = make(classes=None)
    f, k, draws, _ = inputs()
    loss, log = step(f, k, draws)
    loss.backward()
    assert "loss/linear" not in log and all(p.grad is not None for p in step.parameters())
    assert [group["name"] for group in parameter_groups(step.segmenter, 1e-3, 1e-2)] == ["head", "cluster"]


def test_bfloat16_head_agrees_with_float32():
    step = make()
    f, k, draws, labels = inputs()
    exact = step(f, k, draws, labels, 0.01)[0]
    with torch.autocast("cpu", torch.bfloat16):
        rough, log = step(f, k, draws, labels, 0.01)
    assert rough.dtype == torch.float32 and all(v.dtype == torch.float32 for v in log.values())
    assert float(rough.detach()) == pytest.approx(float(exact.detach()), rel=0.03)


def test_half_precision_features_give_the_same_loss():
    step = make()
    f, k, draws, labels = inputs()
    a, b = step(f, k, draws, labels, 0.01)[0], step(f.half(), k.half(), draws, labels, 0.01)[0]
    assert float(a.detach()) == pytest.approx(float(b.detach()), rel=2e-3)


def test_contrastive_crf_enters_with_its_weight():
    f, k, draws, labels = inputs()
    images, positions = torch.randn(8, 3, 24, 24), torch.randint(0, 56, (2, 50))
    plain = make()(f, k, draws, labels, 0.01, None, images, positions)
    weighted = make(contrastive_crf_weight=0.5)(f, k, draws, labels, 0.01, None, images, positions)
    torch.testing.assert_close(weighted[0] - plain[0], 0.5 * weighted[1]["loss/contrastive_crf"])


def test_one_adam_with_three_groups_equals_three_adams():
    one, three = make(), make()
    single = torch.optim.Adam(parameter_groups(one.segmenter, 5e-4, 5e-3))
    s = three.segmenter
    several = [torch.optim.Adam(m.parameters(), lr) for m, lr in ((s.head, 5e-4), (s.cluster, 5e-3), (s.linear, 5e-3))]
    for seed in range(3):
        f, k, draws, labels = inputs(seed=seed)
        for step, optimisers in ((one, [single]), (three, several)):
            step(f, k, draws, labels, 0.01)[0].backward()
            for optimiser in optimisers:
                optimiser.step()
                optimiser.zero_grad()
    for a, b in zip(one.parameters(), three.parameters()):
        assert torch.equal(a, b)


def test_signed_labels():
    assert signed_labels(torch.tensor([0, 26, 255], dtype=torch.uint8)).tolist() == [0, 26, -1]
