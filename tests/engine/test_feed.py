"""Both feeds give the batches that order, table and draws prescribe, whatever the ranks and workers."""

from __future__ import annotations

from itertools import islice, pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from stego_dist.data.order import Order
from stego_dist.data.samples import ShardSamples
from stego_dist.engine.feed import BankFeed, Batch, Feed, NeighbourDraw, OnlineFeed
from stego_dist.errors import UserError
from stego_dist.features.bank import MappedBank, ResidentBank
from stego_dist.features.store import FeatureStore, ShardFeatures, write_manifest, write_shard
from stego_dist.knn import table as knn_table
from stego_dist.knn.ranking import Neighbours
from stego_dist.knn.table import KnnTable
from tests.tiny import build_shards

IMAGES, SLOTS, GROUP, K, POSITIVES, SIDE = 27, 8, 4, 6, 3, 16
STEPS = 8  # more than two epochs of 27 // 8 batches
LONELY, ONE_FRIEND = 5, 11
"""Samples with no neighbour, and with one."""
INPUTS = {"made by": "test"}


def neighbour_table(root: Path, counts: list[int]) -> KnnTable:
    rng = np.random.default_rng(1)
    others = [rng.permutation(np.delete(np.arange(IMAGES), i))[: K - 1] for i in range(IMAGES)]
    ids = np.concatenate([np.arange(IMAGES)[:, None], np.stack(others)], 1)
    ids[LONELY, 1:] = -1
    ids[ONE_FRIEND, 2:] = -1
    starts = np.cumsum([0, *counts])
    for i, (first, last) in enumerate(pairwise(starts)):
        rows = ids[first:last]
        knn_table.write_part(root, f"train-{i:05d}", Neighbours(rows, np.zeros(rows.shape, np.float32)), INPUTS)
    knn_table.write_manifest(root, [f"train-{i:05d}" for i in range(len(counts))], INPUTS)
    return KnnTable(root, INPUTS, "")


class World:
    """A shard set, a table and a bank whose features tell which sample they are of."""

    def __init__(self, folder: Path, labels: bool = True) -> None:
        self.samples = ShardSamples(build_shards(folder, train=IMAGES, val=1, labels=labels), "train")
        counts = [shard.samples for shard in self.samples.split.shards]
        self.order = Order(tuple(counts), SLOTS, seed=3, window=16)
        self.table = neighbour_table(folder / "knn", counts)
        self.draw = NeighbourDraw(self.table, seed=3, group_size=GROUP, positives=POSITIVES)
        self.bank = np.random.default_rng(0).standard_normal((IMAGES, 5, 2, 2)).astype(np.float16)
        views = [self.samples.view(i, SIDE, "bilinear") for i in range(IMAGES)]
        self.images = torch.stack([image for image, _ in views])
        self.labels = torch.stack([label for _, label in views]) if labels else None
        for i, (first, last) in enumerate(pairwise(self.samples.shard_starts)):
            features = ShardFeatures(
                np.zeros((last - first, 5), np.float32),
                self.samples.source[first:last],
                self.bank[first:last],
                self.labels[first:last].numpy() if self.labels is not None else None,
            )
            write_shard(folder / "store", f"train-{i:05d}", features, INPUTS)
        write_manifest(folder / "store", [f"train-{i:05d}" for i in range(len(counts))], INPUTS)
        self.store = FeatureStore(folder / "store", INPUTS, "")

    def online(self, slots: range = range(SLOTS), workers: int = 0) -> OnlineFeed:
        return OnlineFeed(
            self.samples, self.order, slots, self.draw, resolution=SIDE, resize="bilinear", workers=workers
        )

    def banked(self, slots: range = range(SLOTS)) -> BankFeed:
        return BankFeed(MappedBank(self.store), self.order, slots, self.draw)

    def resident(self, slots: range = range(SLOTS)) -> BankFeed:
        return BankFeed(ResidentBank(self.store, torch.device("cpu")), self.order, slots, self.draw)


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> World:
    return World(tmp_path_factory.mktemp("world"))


def take(feed: Feed, steps: int = STEPS, first: int = 0) -> list[Batch]:
    return list(islice(feed.batches(first), steps))


def assert_same(
    some: list[Batch], others: list[Batch], fields=("ids", "neighbour_ids", "anchors", "neighbours", "labels")
):
    assert len(some) == len(others)
    for a, b in zip(some, others):
        for field in fields:
            x, y = getattr(a, field), getattr(b, field)
            assert (x is None and y is None) or (x.dtype == y.dtype and torch.equal(x, y)), field


def joined(parts: list[list[Batch]]) -> list[Batch]:
    """What all ranks have together, step by step."""
    fields = ("ids", "neighbour_ids", "anchors", "neighbours", "labels")
    return [Batch(*(torch.cat([getattr(part, f) for part in parts]) for f in fields)) for parts in zip(*parts)]


def test_online_batches_are_what_order_and_samples_say(world):
    for step, batch in enumerate(take(world.online())):
        epoch, place = divmod(step, IMAGES // SLOTS)
        expected = [world.order.lane_ids(epoch, lane)[place] for lane in range(SLOTS)]
        assert batch.ids.tolist() == expected
        assert torch.equal(batch.anchors, world.images[batch.ids]) and batch.anchors.dtype == torch.uint8
        assert torch.equal(batch.neighbours, world.images[batch.neighbour_ids])
        assert torch.equal(batch.labels, world.labels[batch.ids])


def test_bank_batches_are_rows_of_the_bank(world):
    for batch in take(world.banked()):
        assert batch.anchors.dtype == torch.float16 and batch.labels.dtype == torch.uint8
        np.testing.assert_array_equal(batch.anchors.numpy(), world.bank[batch.ids.numpy()])
        np.testing.assert_array_equal(batch.neighbours.numpy(), world.bank[batch.neighbour_ids.numpy()])


def test_a_resident_bank_gives_the_same_bits(world):
    assert_same(take(world.resident()), take(world.banked()))


def test_both_feeds_give_the_same_samples(world):
    assert_same(take(world.online()), take(world.banked()), fields=("ids", "neighbour_ids", "labels"))


@pytest.mark.parametrize("workers", [1, 3])
def test_workers_do_not_change_batches(world, workers):
    assert_same(take(world.online(workers=workers)), take(world.online()))


def test_more_workers_than_slots(world):
    feed = world.online(range(2), workers=5)
    assert feed.workers == 2
    assert_same(take(feed, 3), take(world.online(range(2)), 3))


@pytest.mark.parametrize("kind", ["online", "banked"])
@pytest.mark.parametrize("ranks", [2, 8])
def test_ranks_together_have_the_whole_batch(world, kind, ranks):
    """Also when a rank has part of a group: its draws are those of its slots."""
    make, size = getattr(world, kind), SLOTS // ranks
    shares = [take(make(range(r * size, (r + 1) * size))) for r in range(ranks)]
    assert all(len(batch.ids) == size for share in shares for batch in share)
    assert_same(joined(shares), take(make()))


@pytest.mark.parametrize("first", [1, 3, 5])
def test_starting_at_a_step_gives_the_tail(world, first):
    whole = take(world.online())
    assert_same(take(world.online(), STEPS - first, first), whole[first:])
    assert_same(take(world.banked(), STEPS - first, first), take(world.banked())[first:])
    if first == 5:
        assert_same(take(world.online(workers=2), STEPS - first, first), whole[first:])


def test_neighbours_are_drawn_from_all_ranks_up_to_positives_and_no_other(world):
    rows = world.table.rows(np.arange(IMAGES))
    drawn = np.zeros(K, int)
    for batch in take(world.banked(), 120):
        for anchor, neighbour in zip(batch.ids.tolist(), batch.neighbour_ids.tolist()):
            if anchor == LONELY:
                assert neighbour == LONELY
            elif anchor == ONE_FRIEND:
                assert neighbour == rows[ONE_FRIEND, 1]
            else:
                drawn[rows[anchor].tolist().index(neighbour)] += 1
    assert drawn[0] == 0 and (drawn[POSITIVES + 1 :] == 0).all()
    expected = drawn.sum() / POSITIVES
    assert (np.abs(drawn[1 : POSITIVES + 1] - expected) < 5 * np.sqrt(expected)).all()


def test_the_lonely_are_drawn_at_all(world):
    ids = torch.cat([batch.ids for batch in take(world.banked(), 12)]).tolist()
    assert LONELY in ids and ONE_FRIEND in ids


def test_draws_depend_on_seed_step_and_group_only(world):
    ids = np.array([i for i in range(IMAGES) if i not in (LONELY, ONE_FRIEND)][:SLOTS])
    drawn = world.draw(4, range(SLOTS), ids)
    np.testing.assert_array_equal(drawn, world.draw(4, range(SLOTS), ids))
    np.testing.assert_array_equal(drawn[6:8], world.draw(4, range(6, 8), ids[6:8]))
    many = [world.draw(step, range(SLOTS), ids) for step in range(5, 10)]
    assert any((other != drawn).any() for other in many)
    reseeded = [NeighbourDraw(world.table, seed, GROUP, POSITIVES)(4, range(SLOTS), ids) for seed in range(4, 9)]
    assert any((other != drawn).any() for other in reseeded)


def test_without_labels(tmp_path):
    world = World(tmp_path, labels=False)
    online, banked = take(world.online(workers=2), 4), take(world.banked(), 4)
    assert all(batch.labels is None for batch in online + banked)
    assert_same(online, banked, fields=("ids", "neighbour_ids"))
    assert_same(take(world.resident(), 4), banked)
    moved = online[0].to(torch.device("cpu"))
    assert moved.labels is None and torch.equal(moved.anchors, online[0].anchors)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("suffix", [".jpg", ".label.png"])
def test_a_corrupt_anchor_is_named_without_a_traceback(tmp_path, workers, suffix):
    world = World(tmp_path)
    i = int(world.order.lane_ids(0, 0)[1])
    shard = world.samples.split.shards[int(np.searchsorted(world.samples.shard_starts, i, side="right")) - 1]
    tar = world.samples.shard_set.tar(shard)
    offset, size = (int(v) for v in world.samples._spans[suffix][i])
    data = bytearray(tar.read_bytes())
    data[offset : offset + size] = bytes(size)
    tar.write_bytes(data)
    with pytest.raises(UserError) as error:
        take(world.online(range(1), workers), 3)
    text = str(error.value)
    assert f"{tar}: sample {world.samples.key(i)}{suffix}" in text and "Traceback" not in text
