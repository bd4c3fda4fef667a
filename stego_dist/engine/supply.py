"""Where a run's features come from: the backbone in every step, or the bank. The one place that decides."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stego_dist import console
from stego_dist.config import Config
from stego_dist.data.order import Order
from stego_dist.data.samples import ShardSamples
from stego_dist.engine.feed import BankFeed, Feed, NeighbourDraw, OnlineFeed
from stego_dist.engine.inputs import open_store
from stego_dist.errors import UserError
from stego_dist.features.bank import Bank, MappedBank, bank_bytes, hold_bank
from stego_dist.knn.table import KnnTable
from stego_dist.models.backbone import Backbone
from stego_dist.rundir import Fingerprint

FeaturesOf = Callable[[NDArray[np.int64]], Tensor]


def open_bank(config: Config, fingerprint: Fingerprint, device: torch.device) -> Bank | None:
    """The bank, held as train.bank says; None when the features are computed online.

    Raises UserError when it is not there, is incomplete, or is to be held where it does not fit, StaleInputError when
    it was made from something else.
    """
    if config.train.features == "online":
        return None
    store = open_store(config, fingerprint)
    if not store.has_bank:
        raise UserError(
            f"train.features=bank, but {store.root} holds no dense features; run `stego-dist features CONFIG`"
        )
    bank = hold_bank(store, config.train.bank, device)
    how = "read by memory map" if isinstance(bank, MappedBank) else f"held on {device.type}"
    console.say(f"the bank {store.root} ({bank_bytes(store) / 1e9:.1f} GB) is {how}")
    return bank


def open_feed(config: Config, samples: ShardSamples, table: KnnTable, bank: Bank | None, slots: range) -> Feed:
    """The batches of a rank that has these slots of the global batch."""
    counts = tuple(shard.samples for shard in samples.split.shards)
    order = Order(counts, config.train.batch_size, config.seed, config.data.shuffle_window)
    draw = NeighbourDraw(table, config.seed, config.loss.group_size, config.knn.positives)
    if bank is not None:
        return BankFeed(bank, order, slots, draw)
    return OnlineFeed(
        samples,
        order,
        slots,
        draw,
        resolution=config.data.resolution,
        resize=config.data.image_resize,
        workers=config.data.workers,
    )


def features_of(
    config: Config, samples: ShardSamples, backbone: Backbone, bank: Bank | None, device: torch.device
) -> FeaturesOf:
    """Dense float32 features (n, C, h, w) of samples by id, on the device."""
    if bank is not None:
        return lambda ids: bank.features(ids).to(device).float()

    def features(ids: NDArray[np.int64]) -> Tensor:
        views = samples.views(ids.tolist(), config.data.resolution, config.data.image_resize)
        feats: Tensor = backbone(torch.stack([image for image, _ in views]).to(device)).float()
        return feats

    return features
