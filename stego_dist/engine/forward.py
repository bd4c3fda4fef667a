"""From a batch to its loss: features (where they are not from the bank), draws, and the step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch._dynamo.exc import TorchDynamoException
from torch._inductor.exc import InductorError
from torch.nn.parallel import DistributedDataParallel

from stego_dist.config import Config
from stego_dist.engine.feed import Batch
from stego_dist.engine.inputs import AUTOCAST
from stego_dist.errors import UserError
from stego_dist.losses.draws import draw_lines, draw_step, generator
from stego_dist.losses.linear import count_labelled
from stego_dist.models.backbone import Backbone

CRF_SIDE, CRF_POSITIONS = 56, 1000
"""Map and sample of the contrastive CRF term, as published."""


class Forward:
    """Computes the loss of batches.

    Args:
        step: the TrainStep, as it came back from Accelerate.
        backbone: computes the features of images.
        online: batches hold images; otherwise they hold features.
    """

    def __init__(self, config: Config, step: nn.Module, backbone: Backbone, *, online: bool) -> None:
        self.config, self.step, self.backbone, self.online = config, step, backbone, online
        self.extract: Callable[[Tensor], Tensor] = backbone
        if config.train.compile:
            inner = step.module if isinstance(step, DistributedDataParallel) else step
            inner.compile(dynamic=False)
            self.extract = torch.compile(backbone, dynamic=False)

    def labelled(self, batch: Batch) -> Tensor:
        """Number of labelled pixels of the batch, 0 without labels; the linear probe's loss is divided by their sum."""
        if batch.labels is None:
            return torch.zeros((), dtype=torch.int64, device=batch.ids.device)
        return count_labelled(batch.labels)

    def __call__(
        self, batch: Batch, *, step: int, groups: range, label_scale: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a batch that holds `groups` of step `step`, and what to log (see TrainStep.forward)."""
        config, device = self.config, batch.anchors.device
        feats, feats_knn, images = batch.anchors, batch.neighbours, None
        if self.online:
            if config.loss.contrastive_crf_weight:
                images = self.backbone.normalise(batch.anchors)
            dtype = AUTOCAST[config.train.precision]
            with torch.autocast(device.type, dtype, enabled=dtype is not None):
                both = self._run(self.extract, torch.cat([batch.anchors, batch.neighbours]))
            feats, feats_knn = both.chunk(2)
        draws = draw_step(
            seed=config.seed, step=step, groups=groups, size=config.loss.group_size, points=config.loss.points,
            negatives=config.loss.negatives, channels=self.backbone.dim, dropout=config.head.dropout,
        ).to(device)  # fmt: skip
        lines = None
        if batch.labels is not None and config.train.linear_points is not None:
            rows, columns = draw_lines(
                seed=config.seed, step=step, groups=groups, size=config.loss.group_size,
                count=config.train.linear_points, height=batch.labels.shape[1], width=batch.labels.shape[2],
            )  # fmt: skip
            lines = rows.to(device), columns.to(device)
        positions = None
        if images is not None:
            rng = generator(config.seed, "crf", step)
            positions = torch.randint(0, CRF_SIDE, (2, CRF_POSITIONS), generator=rng).to(device)
        found: tuple[Tensor, dict[str, Tensor]] = self._run(
            self.step, feats, feats_knn, draws, batch.labels, label_scale, lines, images, positions
        )
        return found

    def _run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return function(*arguments)
        except (TorchDynamoException, InductorError) as error:
            reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
            raise UserError(
                f"train.compile: torch.compile failed ({reason.strip()}); it needs a C++ compiler (g++) on a CPU and "
                "Triton on a GPU; leave it out with train.compile=false"
            ) from error
