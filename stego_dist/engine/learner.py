"""What a rank learns with: its inputs, its share of every batch, the model, and the gradients of a step.

1. open shards, table and features, refusing what does not belong together; calibrate the loss where it is `auto`;
2. feed: this rank's groups of every global batch;
3. gradients: batch → features → draws → loss → gradients, averaged over ranks, part by part;
4. cluster: k-means over training codes, when training is over.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterator
from dataclasses import fields
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from stego_dist.config import Config
from stego_dist.engine.calibrate import calibrate, calibrated_for_training, calibration_fingerprint
from stego_dist.engine.clustering import RunClustering
from stego_dist.engine.coefficients import loss_settings
from stego_dist.engine.feed import Batch
from stego_dist.engine.forward import Forward
from stego_dist.engine.inputs import (
    check_enough,
    make_segmenter,
    share_of_rank,
)
from stego_dist.engine.opened import Opened
from stego_dist.engine.prefetch import prefetch
from stego_dist.engine.setup import StopFlag
from stego_dist.engine.step import TrainStep, parameter_groups
from stego_dist.engine.supply import features_of, open_feed
from stego_dist.rundir import RunDir


class Learner:
    """Everything that the gradients of a step need; the loop around it is engine/train.py."""

    config: Config
    """With numbers in place of what was `auto` in the loss."""

    def __init__(self, config: Config, accelerator: Accelerator, run: RunDir, opened: Opened) -> None:
        self.config, self.accelerator, self.opened = config, accelerator, opened
        self.device = accelerator.device
        self.slots, self.groups = share_of_rank(config, accelerator.process_index, accelerator.num_processes)
        self.shard_set, self.samples = opened.shard_set, opened.training
        check_enough(self.samples)
        self.backbone, self.fingerprint = opened.backbone, opened.fingerprint
        self.table, self.bank = opened.table, opened.bank
        self.segmenter = make_segmenter(config, self.backbone.dim, self.shard_set)
        self.config = config = self._calibrated(run)
        step = TrainStep(self.segmenter, loss_settings(config))
        groups = parameter_groups(self.segmenter, config.train.lr_head, config.train.lr_probes)
        self.model, self.optimiser = accelerator.prepare(step.to(self.device), torch.optim.Adam(groups))
        self.forward = Forward(config, self.model, self.backbone, online=self.bank is None)

    def _calibrated(self, run: RunDir) -> Config:
        features = features_of(self.config, self.samples, self.backbone, self.bank, self.device)
        clusters, fingerprint = self.segmenter.num_clusters, self.fingerprint

        def compute() -> dict[str, Any]:
            return calibrate(
                self.config, self.samples, self.table, features, clusters=clusters, fingerprint=fingerprint
            )

        wanted = calibration_fingerprint(self.config, fingerprint, clusters)
        return calibrated_for_training(self.config, run, self.accelerator, compute, wanted)

    def batches(self, first_step: int) -> Generator[Batch]:
        """This rank's share of the batches of steps first_step, first_step + 1, … on the device, without end."""
        feed = open_feed(self.config, self.samples, self.table, self.bank, self.slots)
        return prefetch(feed.batches(first_step), self.device)

    def gradients(self, batch: Batch, step: int) -> tuple[bool, dict[str, Tensor]]:
        """Gradients of a step, averaged over ranks; whether they and the loss are finite here, and what to log.

        The batch is worked off in train.accumulate parts, so that a part's activations are all that is held.
        """
        parts = self.config.train.accumulate
        scale = self._label_scale(batch)
        logs = []
        for n, (part, groups) in enumerate(_cut(batch, self.groups, parts)):
            last = n == parts - 1
            with contextlib.nullcontext() if last else self.accelerator.no_sync(self.model):
                loss, log = self.forward(part, step=step, groups=groups, label_scale=scale)
                self.accelerator.backward(loss / parts)
            logs.append(log)
        log = logs[0]
        if parts > 1:
            log = {key: torch.stack([each[key] for each in logs]).mean(0) for key in log}
        checked = log["loss/total"]
        if self.accelerator.scaler is None:
            gradients = [p.grad for p in self.segmenter.parameters() if p.grad is not None]
            log["gradient_norm"] = torch.nn.utils.get_total_norm(gradients)
            checked = checked + log["gradient_norm"]
        return bool(torch.isfinite(checked)), log

    def _label_scale(self, batch: Batch) -> Tensor:
        """What the linear probe's summed loss is multiplied by: over ranks and parts it comes to a mean over pixels."""
        counted = self.accelerator.reduce(self.forward.labelled(batch), "sum")
        scale: Tensor = self.accelerator.num_processes * self.config.train.accumulate / counted.clamp(min=1)
        return scale

    def cluster(self, stop: StopFlag) -> tuple[float, dict[str, Any]]:
        """Put k-means centres of training codes into the segmenter, found on the main process, on all ranks.

        Returns the largest cluster's share and how clusters were found. Raises Stopped when `stop` is raised.
        """
        self.segmenter.eval()
        clustering = RunClustering(self.config, self.accelerator, self.segmenter.head, self.opened, stop)
        clusters = clustering.find(self.segmenter)
        return clusters.largest, clusters.record()


def _cut(batch: Batch, groups: range, parts: int) -> Iterator[tuple[Batch, range]]:
    """A rank's batch in equal parts of whole groups."""
    rows, each = len(batch.ids) // parts, len(groups) // parts
    columns: dict[str, Any] = {field.name: getattr(batch, field.name) for field in fields(batch)}
    for n in range(parts):
        mine: dict[str, Any] = {
            name: None if c is None else c[n * rows : (n + 1) * rows] for name, c in columns.items()
        }
        yield Batch(**mine), groups[n * each : (n + 1) * each]
