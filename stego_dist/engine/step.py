"""One training step as a module: what DistributedDataParallel wraps, what a bare GPU box can run.

Plain arguments only: no configuration, no collectives. In: features of anchors and neighbours, draws, labels. Out: the
loss to differentiate and the numbers to log.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from stego_dist.losses.contrastive_crf import contrastive_crf_loss
from stego_dist.losses.correspondence import Clamp, correspondence_loss
from stego_dist.losses.draws import Draws
from stego_dist.models.probes import cluster_loss, linear_loss_sum
from stego_dist.models.segmenter import Segmenter

PAIRS = ("self", "knn", "random")


@dataclass(frozen=True)
class LossSettings:
    """Coefficients of the loss, in the order self, knn, random pairs."""

    weights: tuple[float, float, float]
    shifts: tuple[float, float, float]
    centring: bool = True
    clamp: Clamp = "zero"
    linear_stride: int = 1
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
        images: Tensor | None = None,
        crf_positions: Tensor | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of n = G·N anchors and their neighbours, and detached scalars by name.

        Args:
            feats, feats_knn: (n, C, h, w), any float type.
            labels: integers (n, H, W), below 0 ignored; None: no linear probe.
            label_scale: what the sum of the linear probe's cross-entropy is multiplied by: 1/labelled pixels of the
                global batch, times the number of ranks where gradients are averaged.
            images, crf_positions: normalised images and int64 (2, m) for the contrastive CRF term.
        """
        feats, feats_knn = feats.float(), feats_knn.float()
        keep = draws.keep.flatten(0, 1).unsqueeze(-1).unsqueeze(-1)  # (n, 2, 3, C, 1, 1)
        both = torch.cat([feats, feats_knn])
        masks = [torch.cat([keep[:, 0, branch], keep[:, 1, branch]]) for branch in range(2)]
        code_both: Tensor = self.segmenter.head(both, masks)
        with torch.autocast(feats.device.type, enabled=False):
            code, code_knn = code_both.float().chunk(2)
            return self._losses(
                feats * keep[:, 0, 2], feats_knn * keep[:, 1, 2], code, code_knn, draws, labels, label_scale, images,
                crf_positions,
            )  # fmt: skip

    def _losses(
        self, feats: Tensor, feats_knn: Tensor, code: Tensor, code_knn: Tensor, draws: Draws, labels: Tensor | None,
        label_scale: Tensor | float, images: Tensor | None, crf_positions: Tensor | None,
    ) -> tuple[Tensor, dict[str, Tensor]]:  # fmt: skip
        s = self.settings
        distil = correspondence_loss(
            feats=feats, feats_knn=feats_knn, code=code, code_knn=code_knn, points=draws.points,
            points_other=draws.points_other, negatives=draws.negatives, weights=s.weights, shifts=s.shifts,
            centring=s.centring, clamp=s.clamp,
        )  # fmt: skip
        cluster = cluster_loss(self.segmenter.cluster(code))
        total = distil.total + cluster
        log = {"loss/correspondence": distil.total, "loss/cluster": cluster}
        for name, term in zip(PAIRS, (distil.self_pair, distil.knn_pair, distil.random_pair)):
            log |= {
                f"loss/{name}": term.loss,
                f"code_correlation/{name}": term.code_mean,
                f"above_shift/{name}": term.above_shift,
            }
        if self.segmenter.linear is not None and labels is not None:
            summed, _ = linear_loss_sum(self.segmenter.linear(code), labels, s.linear_stride)
            linear = summed * label_scale
            total = total + linear
            log["loss/linear"] = linear
        if s.contrastive_crf_weight and images is not None and crf_positions is not None:
            crf = contrastive_crf_loss(images=images, code=code, positions=crf_positions)
            total = total + s.contrastive_crf_weight * crf
            log["loss/contrastive_crf"] = crf
        return total, {"loss/total": total.detach(), **{k: v.detach() for k, v in log.items()}}


def count_labelled(labels: Tensor, stride: int) -> Tensor:
    """Labelled pixels that `linear_loss_sum` looks at with this stride."""
    start = stride // 2
    return (labels[:, start::stride, start::stride] >= 0).sum()


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
