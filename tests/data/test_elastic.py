"""What a global batch holds is a function of (seed, epoch, batch size): ranks, workers and restarts don't enter.

A rank is its share of the slots, a worker its share of the rank's, as engine/feed.py deals them out; no process is
started, so that every combination can be tried.
"""

from __future__ import annotations

from itertools import islice
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from stego_dist.data.order import Order
from stego_dist.data.samples import ShardSamples
from stego_dist.engine import feed as feed_module
from stego_dist.engine.feed import _LaneShare
from stego_dist.engine.inputs import share_of_rank
from tests.tiny import build_shards, config_at

IMAGES, SLOTS, SIDE = 27, 8, 8
LENGTH = IMAGES // SLOTS
"""Batches of an epoch."""


@pytest.fixture(scope="module")
def samples(tmp_path_factory) -> ShardSamples:
    return ShardSamples(build_shards(tmp_path_factory.mktemp("elastic"), train=IMAGES, val=7), "train")


def order_of(samples: ShardSamples, seed: int = 0, lanes: int = SLOTS) -> Order:
    return Order(tuple(shard.samples for shard in samples.split.shards), lanes, seed, window=16)


def other_sample(step: int, slots: range, ids: np.ndarray) -> np.ndarray:
    """In place of the neighbour table."""
    return ids // 2


def read(monkeypatch, samples: ShardSamples, order: Order, world: int, workers: int, first: int, steps: int):
    """Ids and pixels of every global batch, put together from the shares of all ranks and all their workers."""
    per_rank = order.lanes // world
    parts = []
    for rank in range(world):
        slots = range(rank * per_rank, (rank + 1) * per_rank)
        count = min(workers, len(slots))
        for worker in range(max(1, count)):
            info = SimpleNamespace(id=worker, num_workers=count) if count else None
            share = _LaneShare(
                samples=samples, order=order, slots=slots, draw=other_sample, resolution=SIDE, resize="bilinear",
                first_step=first,
            )  # fmt: skip
            monkeypatch.setattr(feed_module, "get_worker_info", lambda info=info: info)
            parts.append(list(islice(share, steps)))
    monkeypatch.undo()
    assert {len(part) for part in parts} == {steps}
    return [tuple(torch.cat(column) for column in zip(*step)) for step in zip(*parts)]


def same(some: list[tuple[torch.Tensor, ...]], others: list[tuple[torch.Tensor, ...]]) -> bool:
    return len(some) == len(others) and all(torch.equal(x, y) for a, b in zip(some, others) for x, y in zip(a, b))


@pytest.fixture(scope="module")
def reference(samples) -> list[tuple[torch.Tensor, ...]]:
    with pytest.MonkeyPatch.context() as patch:
        return read(patch, samples, order_of(samples), 1, 0, 0, 2 * LENGTH + 1)


@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("world", [1, 2, 4, 8])
def test_batches_do_not_depend_on_ranks_and_workers(monkeypatch, samples, reference, world, workers):
    assert same(read(monkeypatch, samples, order_of(samples), world, workers, 0, len(reference)), reference)


@pytest.mark.parametrize(("world", "workers"), [(1, 0), (2, 3), (4, 1)])
@pytest.mark.parametrize("first", [1, LENGTH - 1, LENGTH, LENGTH + 2])
def test_a_resume_in_the_middle_may_change_ranks_and_workers(monkeypatch, samples, reference, world, workers, first):
    steps = len(reference) - first
    assert same(read(monkeypatch, samples, order_of(samples), world, workers, first, steps), reference[first:])


def test_seed_epoch_and_batch_size_do_change_them(monkeypatch, samples, reference):
    ids = torch.stack([batch[0] for batch in reference[: 2 * LENGTH]])
    assert not torch.equal(ids[:LENGTH], ids[LENGTH:])
    reseeded = read(monkeypatch, samples, order_of(samples, seed=1), 2, 0, 0, LENGTH)
    assert not torch.equal(torch.stack([batch[0] for batch in reseeded]), ids[:LENGTH])
    smaller = read(monkeypatch, samples, order_of(samples, lanes=4), 2, 0, 0, LENGTH)
    assert not torch.equal(torch.stack([batch[0] for batch in smaller]), ids[:LENGTH, :4])


@pytest.mark.parametrize("lanes", [8, 12, 16])
@pytest.mark.parametrize("world", [1, 2, 4])
def test_epochs_are_equally_long_on_every_rank_and_repeat_nothing(samples, world, lanes):
    order = order_of(samples, lanes=lanes)
    for epoch in range(3):
        ranks = [
            np.stack(
                [order.lane_ids(epoch, lane) for lane in range(rank * lanes // world, (rank + 1) * lanes // world)]
            )
            for rank in range(world)
        ]
        assert {ids.shape for ids in ranks} == {(lanes // world, IMAGES // lanes)}
        read = np.concatenate([ids.ravel() for ids in ranks])
        assert len(np.unique(read)) == len(read) == IMAGES // lanes * lanes


def test_fewer_shards_than_workers(monkeypatch, tmp_path):
    samples = ShardSamples(build_shards(tmp_path, train=3, val=1), "train")
    order = order_of(samples)
    assert len(samples.split.shards) == 3 < SLOTS
    alone = read(monkeypatch, samples, order, 1, 0, 0, 4)
    for world, workers in ((1, 8), (4, 3), (8, 1)):
        assert same(read(monkeypatch, samples, order, world, workers, 0, 4), alone)
    for ids, *_ in alone:  # three samples for eight slots: each as often as evenness allows
        assert sorted(np.bincount(ids, minlength=3)) == [2, 3, 3]


@pytest.mark.parametrize("world", [1, 2, 4])
def test_the_slots_of_all_ranks_are_the_batch(tmp_path, world):
    build_shards(tmp_path, train=6, val=1)
    config = config_at(tmp_path, "train.batch_size=16")
    shares = [share_of_rank(config, rank, world) for rank in range(world)]
    assert [slot for slots, _ in shares for slot in slots] == list(range(16))
    assert [group for _, groups in shares for group in groups] == list(range(4))


@pytest.mark.parametrize("count", [1, 3, 7, 8, 100])
@pytest.mark.parametrize("world", [1, 2, 4])
def test_evaluation_takes_every_sample_once(count, world):
    """As engine/evaluate.py deals them out: no rank's share is padded or cut."""
    shares = [range(rank, count, world) for rank in range(world)]
    assert sorted(i for share in shares for i in share) == list(range(count))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
