"""What a rank learns with: its inputs, its share of every batch, the model, and the gradients of a step.

1. open shards, table and features, refusing what does not belong together;
2. feed: this rank's groups of every global batch;
3. gradients: batch → features → draws → loss → gradients, averaged over ranks, part by part;
4. cluster: k-means over training codes, when training is over.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from stego_dist import console
from stego_dist.config import Config
from stego_dist.data.manifest import ShardSet
from stego_dist.data.order import Order
from stego_dist.data.samples import ShardSamples
from stego_dist.engine.clusters import draw_codes, features_from_bank, features_online, find_clusters_unless
from stego_dist.engine.feed import BankFeed, Batch, Feed, NeighbourDraw, OnlineFeed
from stego_dist.engine.inputs import (
    AUTOCAST,
    features_fingerprint,
    loss_settings,
    make_backbone,
    make_segmenter,
    open_store,
    open_table,
    share_of_rank,
)
from stego_dist.engine.setup import StopFlag, on_main_process
from stego_dist.engine.step import TrainStep, count_labelled, parameter_groups, signed_labels
from stego_dist.errors import UserError
from stego_dist.losses.draws import draw_step, generator


class Learner:
    """Everything that the gradients of a step need; the loop around it is engine/train.py."""

    def __init__(self, config: Config, accelerator: Accelerator) -> None:
        self.config, self.accelerator = config, accelerator
        self.device = accelerator.device
        self.slots, self.groups = share_of_rank(config, accelerator.process_index, accelerator.num_processes)
        self.shard_set = shard_set = ShardSet.open(config.data.shards, config.data.storage)
        self.samples = ShardSamples(shard_set, config.data.train_split)
        if len(self.samples) < 2:
            raise UserError(
                f"split {config.data.train_split} of {shard_set.root} has {len(self.samples)} sample; training "
                "compares images and needs at least 2; build the shards with --crops five to get five from one image"
            )
        self.backbone = make_backbone(config).to(self.device)
        self.fingerprint = fingerprint = features_fingerprint(config, shard_set, self.backbone)
        self.table = open_table(config, fingerprint)
        self.store = open_store(config, fingerprint) if config.train.features == "bank" else None
        if self.store is not None and not self.store.has_bank:
            raise UserError(
                f"train.features=bank, but {self.store.root} holds no dense features; run `stego-dist features CONFIG`"
            )
        self.feed = self._feed()

        self.segmenter = make_segmenter(config, self.backbone.dim, shard_set)
        step = TrainStep(self.segmenter, loss_settings(config))
        groups = parameter_groups(self.segmenter, config.train.lr_head, config.train.lr_probes)
        self.model, self.optimiser = accelerator.prepare(step.to(self.device), torch.optim.Adam(groups))

    def _feed(self) -> Feed:
        config = self.config
        counts = tuple(shard.samples for shard in self.samples.split.shards)
        order = Order(counts, config.train.batch_size, config.seed, config.data.shuffle_window)
        draw = NeighbourDraw(self.table, config.seed, config.loss.group_size, config.knn.positives)
        if self.store is not None:
            return BankFeed(self.store, order, self.slots, draw)
        return OnlineFeed(
            self.samples,
            order,
            self.slots,
            draw,
            resolution=config.data.resolution,
            resize=config.data.image_resize,
            workers=config.data.workers,
        )

    def gradients(self, batch: Batch, step: int) -> tuple[bool, dict[str, Tensor]]:
        """Gradients of a step, averaged over ranks; whether they and the loss are finite here, and what to log.

        The batch is worked off in train.accumulate parts, so that a part's activations are all that is held.
        """
        batch = batch.to(self.device)
        parts = self.config.train.accumulate
        scale = self._label_scale(batch)
        logs = []
        for n, (part, groups) in enumerate(_cut(batch, self.groups, parts)):
            last = n == parts - 1
            with contextlib.nullcontext() if last else self.accelerator.no_sync(self.model):
                loss, log = self._forward(part, groups, scale, step)
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
        if self.segmenter.linear is None or batch.labels is None:
            return torch.zeros(())
        counted = count_labelled(signed_labels(batch.labels), self.config.train.linear_stride)
        counted = self.accelerator.reduce(counted, "sum")
        scale: Tensor = self.accelerator.num_processes * self.config.train.accumulate / counted.clamp(min=1)
        return scale

    def _forward(self, batch: Batch, groups: range, label_scale: Tensor, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss and log of a part of a rank's batch: these groups of the global batch."""
        config = self.config
        feats, feats_knn = batch.anchors, batch.neighbours
        images = None
        if self.store is None:
            if config.loss.contrastive_crf_weight:
                images = self.backbone.normalise(batch.anchors)
            dtype = AUTOCAST[config.train.precision]
            with torch.autocast(self.device.type, dtype, enabled=dtype is not None):
                feats, feats_knn = self.backbone(torch.cat([batch.anchors, batch.neighbours])).chunk(2)
        draws = draw_step(
            seed=config.seed, step=step, groups=groups, size=config.loss.group_size,
            points=config.loss.points, negatives=config.loss.negatives, channels=self.backbone.dim,
            dropout=config.head.dropout,
        ).to(self.device)  # fmt: skip
        labels = None
        if self.segmenter.linear is not None and batch.labels is not None:
            labels = signed_labels(batch.labels)
        positions = None
        if config.loss.contrastive_crf_weight:
            rng = generator(config.seed, "crf", step)
            positions = torch.randint(0, 56, (2, 1000), generator=rng).to(self.device)
        loss, log = self.model(feats, feats_knn, draws, labels, label_scale, images, positions)
        return loss, log

    def cluster(self, stop: StopFlag) -> float:
        """Put k-means centres of training codes into the segmenter (on the main process).

        Returns the largest cluster's share of the codes there, 0 on other ranks. Raises Stopped when `stop` is raised.
        """
        console.say("clustering training codes by k-means")
        if self.store is not None:
            features = features_from_bank(self.store, self.device)
        else:
            features = features_online(self.config, self.samples, self.backbone, self.device)
        self.segmenter.eval()
        codes = draw_codes(
            self.config, self.accelerator, len(self.samples), features, self.segmenter.head,
            check=lambda: stop.check(self.accelerator),
        )  # fmt: skip
        share = 0.0

        def work() -> None:
            nonlocal share
            centres = find_clusters_unless(lambda: stop.raised, self.config, codes, self.segmenter.num_clusters)
            if centres is not None:
                self.segmenter.kmeans.copy_(centres)
                taken = (torch.from_numpy(codes) @ centres.T).argmax(1).bincount()
                share = float(taken.max() / len(codes))

        on_main_process(self.accelerator, work)
        stop.check(self.accelerator)
        return share


def _cut(batch: Batch, groups: range, parts: int) -> Iterator[tuple[Batch, range]]:
    """A rank's batch in equal parts of whole groups."""
    rows, each = len(batch.ids) // parts, len(groups) // parts
    columns: dict[str, Any] = {field.name: getattr(batch, field.name) for field in fields(batch)}
    for n in range(parts):
        mine: dict[str, Any] = {
            name: None if c is None else c[n * rows : (n + 1) * rows] for name, c in columns.items()
        }
        yield Batch(**mine), groups[n * each : (n + 1) * each]
