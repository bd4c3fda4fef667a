"""Streamed anchors against the order's ids and the bytes that random access reads."""

from __future__ import annotations

import os
from itertools import islice

import numpy as np
import pytest

from stego_dist.data.order import Order, Run
from stego_dist.data.pack import build
from stego_dist.data.plan import BuildOptions
from stego_dist.data.samples import ShardSamples
from stego_dist.data.stream import read_run, stream_lane
from stego_dist.errors import UserError

LANES = 4


@pytest.fixture
def samples(made, card, tmp_path) -> ShardSamples:
    root = made(11)
    made(3, split="val", labels=False)
    return ShardSamples(build(card, root, tmp_path / "out", BuildOptions(min_shards=3)), "train")


def order_of(samples: ShardSamples, window: int = 8) -> Order:
    return Order(tuple(shard.samples for shard in samples.split.shards), LANES, seed=2, window=window)


@pytest.mark.parametrize("window", [4, 8, 4096])
def test_lanes_give_the_orders_ids_with_the_right_bytes(samples, window):
    order = order_of(samples, window)
    assert order.lane_length == 2
    for lane in range(LANES):
        streamed = list(islice(stream_lane(samples, order, lane), 3 * order.lane_length))
        expected = np.concatenate([order.lane_ids(epoch, lane) for epoch in range(3)])
        assert [sample.id for sample in streamed] == expected.tolist()
        for sample in streamed:
            assert sample.image == samples.image_bytes(sample.id)
            assert sample.label == samples.label_bytes(sample.id) is not None


def test_one_lane_over_several_shards(samples):
    order = Order(tuple(shard.samples for shard in samples.split.shards), 1, seed=0, window=5)
    streamed = [sample.id for sample in islice(stream_lane(samples, order, 0), 22)]
    assert streamed == [*order.lane_ids(0, 0), *order.lane_ids(1, 0)]
    assert sorted(streamed[:11]) == sorted(streamed[11:]) == list(range(11))


@pytest.mark.parametrize("window", [1, 3, 5, 4096])
def test_starting_in_the_middle_gives_the_tail(samples, window):
    order = Order(tuple(shard.samples for shard in samples.split.shards), 1, seed=0, window=window)
    whole = list(islice(stream_lane(samples, order, 0), 25))
    for first in range(24):
        assert list(islice(stream_lane(samples, order, 0, first), 25 - first)) == whole[first:]


def test_skipped_windows_are_not_read(samples):
    order = Order(tuple(shard.samples for shard in samples.split.shards), 1, seed=0, window=4)
    (first, _), *_ = order.windows(0, 0)
    later = {run.shard for runs, _ in list(order.windows(0, 0))[1:] for run in runs}
    unread = [run.shard for run in first if run.shard not in later]
    expected = order.lane_ids(0, 0)[4:].tolist()
    for shard in unread:
        samples.shard_set.tar(samples.split.shards[shard]).unlink()
    assert [sample.id for sample in islice(stream_lane(samples, order, 0, 4), 7)] == expected
    assert unread  # otherwise the choice of seed makes this test say nothing


def test_without_labels(samples):
    val = ShardSamples(samples.shard_set, "val")
    streamed = list(islice(stream_lane(val, Order((1, 1, 1), 1, seed=0, window=8), 0), 3))
    assert sorted(sample.id for sample in streamed) == [0, 1, 2]
    assert all(sample.label is None and sample.image == val.image_bytes(sample.id) for sample in streamed)


@pytest.mark.parametrize("shard", [0, 2])
def test_a_run_is_read_from_its_place(samples, shard):
    first = int(samples.shard_starts[shard])
    count = samples.split.shards[shard].samples
    for start in range(count):
        for length in range(1, count - start + 1):
            ids = [sample.id for sample in read_run(samples, Run(shard, start, length))]
            assert ids == list(range(first + start, first + start + length))


def spot(samples: ShardSamples, i: int, where: str) -> int:
    offset, size = (int(v) for v in samples._spans[".jpg"][i])
    return {
        "image": offset + size // 2,
        "header": offset - 300,
        "before": offset - 512,
        "label": offset + -(-size // 512) * 512,
    }[where]


@pytest.mark.parametrize("where", ["image", "header", "before", "label"])
@pytest.mark.parametrize("place", [0, 2])
def test_a_truncated_tar_is_named(samples, where, place):
    tar = samples.shard_set.tar(samples.split.shards[1])
    i = int(samples.shard_starts[1]) + place
    os.truncate(tar, spot(samples, i, where))
    with pytest.raises(UserError, match=r"train-00001\.tar.*shards verify"):
        list(read_run(samples, Run(1, 0, 4)))
    with pytest.raises(UserError, match=r"train-00001\.tar") as error:
        list(read_run(samples, Run(1, 0, place + 1)))  # also when what is cut is the last that is asked for
    assert "object at" not in str(error.value)
    if place:  # what is before is given
        given = list(islice(read_run(samples, Run(1, 0, 4)), place - 1))
        assert [sample.image for sample in given] == [samples.image_bytes(i - place) for _ in given]


def test_rubbish_and_missing_tars_are_named(samples):
    tar = samples.shard_set.tar(samples.split.shards[1])
    tar.write_bytes(np.random.default_rng(0).bytes(tar.stat().st_size))
    with pytest.raises(UserError, match=r"train-00001\.tar can't be read: .*shards verify"):
        list(read_run(samples, Run(1, 0, 4)))
    tar.unlink()
    with pytest.raises(UserError, match=r"train-00001\.tar can't be read: .*No such file.*shards verify"):
        list(read_run(samples, Run(1, 0, 4)))


def test_an_index_of_something_else_is_refused(samples):
    shard = samples.split.shards[1]
    first = int(samples.shard_starts[1])
    samples.shard_set.tar(shard).write_bytes(samples.shard_set.tar(samples.split.shards[0]).read_bytes())
    expected = rf"train-00001\.tar: found sample {samples.key(0)} where the index has {samples.key(first)}"
    with pytest.raises(UserError, match=expected):
        list(read_run(samples, Run(1, 0, 4)))
    samples._spans[".jpg"][first] += 512  # not where a member begins
    with pytest.raises(UserError, match=r"train-00001\.tar"):
        list(read_run(samples, Run(1, 0, 4)))
