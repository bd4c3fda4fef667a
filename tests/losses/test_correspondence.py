"""The correspondence loss against the published figures and against a plain restatement of the paper."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from stego_dist.engine.step import LossSettings
from stego_dist.losses.contrastive_crf import contrastive_crf, contrastive_crf_loss
from stego_dist.losses.correspondence import Adaptive, CorrespondenceLoss, correlation, correspondence_loss
from stego_dist.losses.draws import Draws, draw_step
from stego_dist.losses.sampling import bilinear, pair_places, places_at
from tests.benchmarks import published
from tests.helpers import assert_golden


def sample(maps: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    """Samples (N, P, C) of maps (N, C, H, W) at points (N, S, S, 2)."""
    grid = (maps.shape[2], maps.shape[3])
    return torch.stack([bilinear(m.flatten(1).T.contiguous(), places_at(p, grid)) for m, p in zip(maps, points)])


def loss_of_maps(
    *, feats, feats_knn, code, code_knn, points, points_other, negatives, **settings
) -> CorrespondenceLoss:
    """The loss of dense maps (G·N, C, H, W)."""
    places = pair_places(points, points_other, negatives, (feats.shape[2], feats.shape[3]))
    sampled, codes = (
        bilinear(torch.cat(maps).flatten(2).transpose(1, 2).flatten(0, 1), places)
        for maps in ((feats, feats_knn), (code, code_knn))
    )
    return correspondence_loss(feats=sampled, code=codes, **settings)


@pytest.mark.parametrize("name", ["default", "no_clamp", "no_pointwise", "stabilised"])
def test_golden(golden, name):
    raw = golden(f"correspondence_{name}")
    case = {k: torch.from_numpy(np.asarray(v)) for k, v in raw.items()}
    code, code_pos = case["code"].clone().requires_grad_(), case["code_pos"].clone().requires_grad_()
    clamp = "stabilised" if raw["stabilise"] else "zero" if raw["zero_clamp"] else "none"
    loss = loss_of_maps(
        feats=case["feats"], feats_knn=case["feats_pos"], code=code, code_knn=code_pos,
        points=case["coords"][None], points_other=case["coords_pos"][None], negatives=case["negatives"][None],
        weights=tuple(raw["weights_intra_inter_neg"]), shifts=tuple(raw["shifts_intra_inter_neg"]),
        centring=bool(raw["pointwise"]), clamp=clamp,
    )  # fmt: skip
    for term, name in (
        (loss.self_pair, "pos_intra"),
        (loss.knn_pair, "pos_inter"),
        (loss.random_pair, "neg_inter"),
    ):
        assert_golden(term.loss, raw[f"out_{name}_loss"])
        assert_golden(term.code_mean, raw[f"out_{name}_cd_mean"], rtol=2e-5)
    assert_golden(loss.total, raw["out_total"].astype(np.float32))
    draws = Draws(case["coords"][None], case["coords_pos"][None], case["negatives"][None], torch.empty(0))
    settings = LossSettings(
        tuple(raw["weights_intra_inter_neg"]), tuple(raw["shifts_intra_inter_neg"]), bool(raw["pointwise"]), clamp
    )
    yardstick = published.correspondence(case["feats"], case["feats_pos"], code, code_pos, draws, settings)
    assert_golden(yardstick, raw["out_total"].astype(np.float32))
    loss.total.backward()
    assert_golden(code.grad, raw["out_grad_code"])
    assert_golden(code_pos.grad, raw["out_grad_code_pos"])
    side = case["coords"].shape[1]
    cd = correlation(sample(case["code"], case["coords"]), sample(case["code_pos"], case["coords_pos"]))
    assert_golden(cd.unflatten(1, (side, side)).unflatten(3, (side, side)), raw["out_pos_inter_cd"])


def arguments(groups: range, size: int = 4) -> dict:
    torch.manual_seed(0)
    feats, feats_knn = torch.randn(2, 3 * size, 8, 6, 6)
    code, code_knn = torch.randn(2, 3 * size, 5, 6, 6)
    rows = slice(groups.start * size, groups.stop * size)
    draws = draw_step(seed=1, step=2, groups=groups, size=size, points=3, negatives=2, channels=8, dropout=0.1)
    return dict(
        feats=feats[rows], feats_knn=feats_knn[rows], code=code[rows].requires_grad_(), code_knn=code_knn[rows],
        points=draws.points, points_other=draws.points_other, negatives=draws.negatives,
        weights=(0.7, 0.3, 0.6), shifts=(0.2, 0.1, 0.4),
    )  # fmt: skip


def test_groups_are_independent_and_averaged():
    whole, parts = arguments(range(3)), [arguments(range(g, g + 1)) for g in range(3)]
    total = loss_of_maps(**whole).total
    totals = [loss_of_maps(**part).total for part in parts]
    torch.testing.assert_close(total, torch.stack(totals).mean())
    gradient = torch.autograd.grad(total, whole["code"])[0]
    pieces = [torch.autograd.grad(t / 3, part["code"])[0] for t, part in zip(totals, parts)]
    torch.testing.assert_close(gradient, torch.cat(pieces))


def test_plain_restatement():
    """Loops over images, negatives and points, as the paper's equations read."""
    args = arguments(range(1))
    size, draws = args["code"].shape[0], args["negatives"].shape[1]
    f, c = sample(args["feats"], args["points"][0]), sample(args["code"], args["points"][0])

    def term(pairs: list, shift: float) -> torch.Tensor:
        fd = torch.stack([torch.stack([torch.cosine_similarity(x, y, dim=0) for x in a for y in b]).view(9, 9)
                          for a, b, _, _ in pairs])  # fmt: skip
        cd = torch.stack([torch.stack([torch.cosine_similarity(x, y, dim=0) for x in a for y in b]).view(9, 9)
                          for _, _, a, b in pairs])  # fmt: skip
        centred = fd - fd.mean(2, keepdim=True)
        centred = centred - centred.mean() + fd.mean()
        return -(cd.clamp(min=0) * (centred - shift)).mean()

    fk, ck = (
        sample(args["feats_knn"], args["points_other"][0]),
        sample(args["code_knn"], args["points_other"][0]),
    )
    own = term([(f[n], f[n], c[n], c[n]) for n in range(size)], 0.2)
    knn = term([(f[n], fk[n], c[n], ck[n]) for n in range(size)], 0.1)
    random = []
    for r in range(draws):
        chosen = args["negatives"][0, r]
        fr = sample(args["feats"][chosen], args["points_other"][0])
        cr = sample(args["code"][chosen], args["points_other"][0])
        random.append(term([(f[n], fr[n], c[n], cr[n]) for n in range(size)], 0.4))
    loss = loss_of_maps(**args)
    torch.testing.assert_close(loss.self_pair.loss, own)
    torch.testing.assert_close(loss.knn_pair.loss, knn)
    torch.testing.assert_close(loss.random_pair.loss, torch.stack(random).mean())
    torch.testing.assert_close(loss.total, 0.7 * own + 0.3 * knn + 0.6 * torch.stack(random).mean())


def test_share_above_the_shift():
    args = {**arguments(range(1)), "shifts": (-5.0, 5.0, 0.4)}
    loss = loss_of_maps(**args)
    assert float(loss.self_pair.above_shift) == 1 and float(loss.knn_pair.above_shift) == 0


def test_contrastive_crf_golden(golden):
    case = golden("crf_loss")
    settings = {k: float(case[k]) for k in ("alpha", "beta", "gamma", "w1", "w2", "shift")}
    tensors = {k: torch.from_numpy(case[k]) for k in ("guidance", "code")}
    pairs = contrastive_crf(**tensors, positions=torch.from_numpy(case["coords"]), **settings)
    assert_golden(pairs, case["out_loss"])


def test_contrastive_crf_prefers_codes_that_follow_colour():
    images = torch.zeros(1, 3, 16, 16)
    images[..., 8:] = 2.0
    follows, crosses = torch.zeros(1, 2, 16, 16), torch.zeros(1, 2, 16, 16)
    follows[:, 0, :, :8], follows[:, 1, :, 8:] = 1, 1
    crosses[:, 0, :8], crosses[:, 1, 8:] = 1, 1
    positions = torch.randint(0, 56, (2, 400), generator=torch.Generator().manual_seed(0))
    losses = [float(contrastive_crf_loss(images=images, code=c, positions=positions)) for c in (follows, crosses)]
    assert losses[0] < losses[1]


def eagle_term(f1, f2, c1, c2, attract: bool, bias: float, scale: float) -> torch.Tensor:
    """EAGLE's loss of one kind of pairs (N, P, ·), restated from its description."""
    fd, cd = (torch.einsum("npc,nqc->npq", *(F.normalize(x, dim=-1) for x in pair)) for pair in ((f1, f2), (c1, c2)))
    fd = fd - fd.mean(-1, keepdim=True) + fd.mean()
    shift = (fd.mean() - cd.mean() - bias).abs() if attract else (fd.mean() + cd.mean() - bias) * scale
    return (-cd.clamp(min=0) * (fd - shift)).mean()


def test_adaptive_shifts_are_eagles_in_each_group():
    torch.manual_seed(0)
    feats, code = torch.randn(2, 4, 4, 5, 8) + 0.5, (torch.randn(2, 4, 4, 5, 6) + 0.3).requires_grad_()
    positive, negative = Adaptive(True, 0.11, 3.5), Adaptive(False, 0.11, 3.5)
    loss = correspondence_loss(feats=feats, code=code, weights=(1.0, 0.5, 2.0), shifts=(positive, positive, negative))
    total, shifts = 0, []
    for f, c in zip(feats, code):
        total += eagle_term(f[:, 0], f[:, 0], c[:, 0], c[:, 0], True, 0.11, 3.5) / 2
        total += 0.5 * eagle_term(f[:, 0], f[:, 3], c[:, 0], c[:, 3], True, 0.11, 3.5) / 2
        for r in (1, 2):
            total += 2.0 * eagle_term(f[:, 0], f[:, r], c[:, 0], c[:, r], False, 0.11, 3.5) / 4
    torch.testing.assert_close(loss.total, total)
    for one, other in zip(*(torch.autograd.grad(value, code, retain_graph=True) for value in (loss.total, total))):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
    for n in range(2):
        single = correspondence_loss(
            feats=feats[n : n + 1], code=code[n : n + 1], weights=(1, 1, 1), shifts=(positive, positive, negative)
        )
        shifts.append(single.random_pair.shift)
    torch.testing.assert_close(loss.random_pair.shift, torch.stack(shifts).mean())
    assert not loss.random_pair.shift.requires_grad


def test_an_adaptive_shift_of_one_pair_leaves_the_others_alone():
    torch.manual_seed(1)
    feats, code = torch.randn(1, 3, 3, 4, 8), torch.randn(1, 3, 3, 4, 6)
    fixed = correspondence_loss(feats=feats, code=code, weights=(1, 1, 1), shifts=(0.1, 0.2, 0.3))
    mixed = correspondence_loss(feats=feats, code=code, weights=(1, 1, 1), shifts=(0.1, Adaptive(True), 0.3))
    assert torch.equal(fixed.self_pair.loss, mixed.self_pair.loss)
    assert torch.equal(fixed.random_pair.loss, mixed.random_pair.loss)
    assert float(fixed.knn_pair.shift) == pytest.approx(0.2) != float(mixed.knn_pair.shift)
