"""One training step as a module: what DistributedDataParallel wraps, what a bare GPU box can run.

Plain arguments only: no configuration, no collectives. In: features of anchors and neighbours, draws, labels. Out: the
loss to differentiate and the numbers to log.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from stego_dist.losses.contrastive_crf import contrastive_crf_loss
from stego_dist.losses.correspondence import Adaptive, Clamp, CorrespondenceLoss, Shift, correspondence_loss
from stego_dist.losses.draws import Draws
from stego_dist.losses.linear import linear_loss_drawn, linear_loss_full
from stego_dist.losses.sampling import PAIRS, bilinear, pair_images, pair_places
from stego_dist.models.probes import cluster_loss
from stego_dist.models.segmenter import Segmenter


@dataclass(frozen=True)
class LossSettings:
    """Coefficients of the loss, in the order self, knn, random pairs."""

    weights: tuple[float, float, float]
    shifts: tuple[Shift, Shift, Shift]
    centring: bool = True
    clamp: Clamp = "zero"
    contrastive_crf_weight: float = 0.0


class TrainStep(nn.Module):
    """Head and probes on one batch."""

    def __init__(self, segmenter: Segmenter, settings: LossSettings) -> None:
        super().__init__()
        self.segmenter, self.settings = segmenter, settings

    def forward(
        self,
        feats: Tensor,
        feats_knn: Tensor,
        draws: Draws,
        labels: Tensor | None = None,
        label_scale: Tensor | float = 0.0,
        lines: tuple[Tensor, Tensor] | None = None,
        images: Tensor | None = None,
        crf_positions: Tensor | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of n = G·N anchors and their neighbours, and detached scalars by name.

        Codes are computed for all positions of the anchors, which the probes see, and for the neighbours where they
        are sampled.

        Args:
            feats, feats_knn: (n, C, h, w), any float type.
            labels: uint8 (n, H, W), 255 ignored; None: no linear probe.
            label_scale: what the sum of the linear probe's cross-entropy is multiplied by: 1/labelled pixels of the
                global batch, times the number of ranks where gradients are averaged.
            lines: drawn rows and columns, int64 (n, S) each, for the linear probe's loss; None: every pixel.
            images, crf_positions: normalised images and int64 (2, m) for the contrastive CRF term.
        """
        count, grid = len(feats), (feats.shape[2], feats.shape[3])
        keep = draws.keep.flatten(0, 1)  # (n, anchor or neighbour, branches and loss, C)
        places = pair_places(draws.points, draws.points_other, draws.negatives, grid)
        own, knn = places[:, :, :-1], places[:, :, -1]
        with torch.autocast(feats.device.type, enabled=False), torch.no_grad():
            maps = torch.cat([feats, feats_knn]).flatten(2).transpose(1, 2).contiguous().float()  # (2n, h·w, C)
            table = maps.flatten(0, 1)
            masks = torch.cat([keep[:, 0, 2], keep[:, 1, 2]])[pair_images(draws.negatives)]
            sampled = bilinear(table, places).mul_(masks.unsqueeze(3))
        head = self.segmenter.head
        dense = head.rows(maps[:count], keep[:, 0, :2])
        code_knn = head.samples(table[knn.rows.flatten(0, 1)], knn.weights.flatten(0, 1), keep[:, 1, :2])
        with torch.autocast(feats.device.type, enabled=False):
            dense, code_knn = dense.float(), code_knn.float()
            code = bilinear(dense.flatten(0, 1), own)
            code = torch.cat([code, code_knn.view_as(code[:, :, :1])], 2)
            s = self.settings
            distil = correspondence_loss(
                feats=sampled, code=code, weights=s.weights, shifts=s.shifts, centring=s.centring, clamp=s.clamp
            )
            total, log = distil.total, _distil_log(distil, s.shifts)
            code_maps = dense.transpose(1, 2).reshape(count, -1, *grid)
            for name, loss in probe_losses(self.segmenter, code_maps, labels, label_scale, lines).items():
                total, log[f"loss/{name}"] = total + loss, loss
            if s.contrastive_crf_weight and images is not None and crf_positions is not None:
                crf = contrastive_crf_loss(images=images, code=code_maps, positions=crf_positions)
                total, log["loss/contrastive_crf"] = total + s.contrastive_crf_weight * crf, crf
        return total, {"loss/total": total.detach(), **{k: v.detach() for k, v in log.items()}}


def probe_losses(
    segmenter: Segmenter,
    code: Tensor,
    labels: Tensor | None,
    label_scale: Tensor | float,
    lines: tuple[Tensor, Tensor] | None,
) -> dict[str, Tensor]:
    """Losses of the cluster probe and, with labels, of the linear probe, on codes (n, C, h, w).

    labels, label_scale, lines: see TrainStep.forward.
    """
    losses = {"cluster": cluster_loss(segmenter.cluster(code))}
    if segmenter.linear is not None and labels is not None:
        logits = segmenter.linear(code)
        summed = linear_loss_drawn(logits, labels, *lines) if lines else linear_loss_full(logits, labels)
        losses["linear"] = summed * label_scale
    return losses


def _distil_log(distil: CorrespondenceLoss, shifts: tuple[Shift, Shift, Shift]) -> dict[str, Tensor]:
    log = {"loss/correspondence": distil.total}
    for name, term, shift in zip(PAIRS, (distil.self_pair, distil.knn_pair, distil.random_pair), shifts):
        log[f"loss/{name}"] = term.loss
        log[f"code_correlation/{name}"] = term.code_mean
        log[f"above_shift/{name}"] = term.above_shift
        if isinstance(shift, Adaptive):
            log[f"shift/{name}"] = term.shift
    return log


def signed_labels(labels: Tensor) -> Tensor:
    """uint8 ids with 255 ignored → int16 with −1 ignored."""
    signed = labels.to(torch.int16)
    return signed.masked_fill(signed == 255, -1)


def parameter_groups(segmenter: Segmenter, lr_head: float, lr_probes: float) -> list[dict[str, object]]:
    """Three groups of one Adam: equal to three Adams, because the probes see detached codes."""
    groups = [("head", segmenter.head, lr_head), ("cluster", segmenter.cluster, lr_probes)]
    if segmenter.linear is not None:
        groups.append(("linear", segmenter.linear, lr_probes))
    return [
        {"name": name, "params": list(module.parameters()), "lr": lr}
        for name, module, lr in groups
        if any(True for _ in module.parameters())
    ]
