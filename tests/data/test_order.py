"""The order of samples: what every (seed, epoch, lanes) must keep, and that it is what the windows say."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from stego_dist.data.order import BatchIds, Order

CASES = [
    # counts, lanes, window
    ((5, 7, 4), 4, 8),
    ((16,), 4, 4096),
    ((16,), 16, 16),
    ((3, 0, 9, 1), 3, 6),
    ((2, 1), 2, 1),
    ((10,) * 6, 7, 21),
    ((1,) * 13, 5, 10),
    ((101, 3, 57), 8, 100),
]
EPOCHS = 4


def order_of(case, seed: int = 0) -> Order:
    counts, lanes, window = case
    return Order(counts, lanes, seed, window)


def all_lanes(order: Order, epoch: int) -> np.ndarray:
    return np.stack([order.lane_ids(epoch, lane) for lane in range(order.lanes)])


@pytest.mark.parametrize("case", CASES, ids=str)
def test_an_epoch_gives_every_sample_but_the_remainder_once(case):
    order = order_of(case)
    total = sum(order.counts)
    for epoch in range(EPOCHS):
        ids = all_lanes(order, epoch)
        assert ids.shape == (order.lanes, total // order.lanes)
        assert len(np.unique(ids)) == ids.size and ids.min() >= 0 and ids.max() < total
        assert total - ids.size == total % order.lanes


def test_no_sample_is_left_out_for_ever():
    order = Order((5, 4), lanes=8, seed=0, window=8)
    left_out = [set(range(9)) - set(all_lanes(order, epoch).ravel().tolist()) for epoch in range(40)]
    assert all(len(one) == 1 for one in left_out) and len(set.union(*left_out)) > 5


def test_samples_repeat_when_there_are_fewer_than_lanes():
    order = Order((2, 1), lanes=8, seed=0, window=8)
    assert order.lane_length == 1
    for epoch in range(EPOCHS):
        ids = all_lanes(order, epoch)
        assert ids.shape == (8, 1)
        assert sorted(np.bincount(ids.ravel(), minlength=3)) == [2, 3, 3]  # as evenly as 8 slots allow


@pytest.mark.parametrize("case", CASES, ids=str)
def test_an_epoch_is_a_function_of_seed_and_epoch(case):
    order = order_of(case)
    np.testing.assert_array_equal(all_lanes(order, 2), all_lanes(order_of(case), 2))
    if sum(order.counts) > 10:
        for other in (all_lanes(order, 3), all_lanes(order_of(case, seed=1), 2)):
            assert (other != all_lanes(order, 2)).any()


@pytest.mark.parametrize("case", CASES, ids=str)
def test_lanes_are_the_windows_of_their_runs(case):
    order = order_of(case)
    starts = np.concatenate([[0], np.cumsum(order.counts)])
    for epoch in range(EPOCHS):
        sequence = []
        for lane in range(order.lanes):
            runs = [list(range(starts[r.shard] + r.first, starts[r.shard] + r.first + r.count))
                    for r in order.runs(epoch, lane)]  # fmt: skip
            for run, shard in zip(runs, (r.shard for r in order.runs(epoch, lane))):
                assert run and starts[shard] <= run[0] and run[-1] < starts[shard + 1]  # a run stays in its shard
            read = [i for run in runs for i in run]
            sequence += read
            given = order.lane_ids(epoch, lane).tolist()
            assert len(read) == len(given) == order.lane_length
            for at in range(0, len(read), order.lane_window):  # a window shuffles its own samples, no others
                assert sorted(given[at : at + order.lane_window]) == sorted(read[at : at + order.lane_window])
            sizes = [sum(run.count for run in runs) for runs, _ in order.windows(epoch, lane)]
            assert all(size == order.lane_window for size in sizes[:-1]) and 0 < sizes[-1] <= order.lane_window
            handed = [
                [i for r in window for i in range(starts[r.shard] + r.first, starts[r.shard] + r.first + r.count)][
                    place
                ]
                for window, permutation in order.windows(epoch, lane)
                for place in permutation
            ]
            assert handed == given
        breaks = [(a, b) for a, b in pairwise(sequence) if b != a + 1]
        # lane after lane, what is read are whole shards in some order, the first one begun in its middle
        assert all(b in starts for _, b in breaks) and len(breaks) <= len(order.counts)


def test_a_lane_reads_few_shards():
    order = Order((100,) * 50, lanes=10, seed=3, window=640)
    assert all(len({run.shard for run in order.runs(0, lane)}) <= 6 for lane in range(10))


def test_windows_shuffle():
    order = Order((1000,), lanes=2, seed=0, window=200)
    ids = order.lane_ids(0, 1)
    assert (np.diff(ids) == 1).mean() < 0.1
    assert Order((1000,), lanes=2, seed=0, window=1).lane_window == 1
    unshuffled = Order((1000,), lanes=2, seed=0, window=2).lane_ids(0, 1)
    assert (np.diff(unshuffled) == 1).sum() >= 498


def test_every_window_is_shuffled_in_its_own_way():
    order = Order((1000,), lanes=2, seed=0, window=200)
    permutations = {
        tuple(permutation) for epoch in range(2) for lane in range(2) for _, permutation in order.windows(epoch, lane)
    }
    assert len(permutations) == 2 * 2 * 5


@pytest.mark.parametrize(("counts", "lanes"), [((5, 7, 4), 4), ((2, 1), 8), ((3, 3), 6)])
def test_positions_count_batches_over_epochs(counts, lanes):
    order = Order(counts, lanes, 0, 8)
    epoch, batch = 0, 0
    for step in range(3 * order.lane_length + 1):
        assert order.position(step) == (epoch, batch)
        batch += 1
        if batch == max(1, sum(counts) // lanes):
            epoch, batch = epoch + 1, 0


@pytest.mark.parametrize("first", [0, 1, 3, 4, 9])
def test_batch_ids_start_anywhere(first):
    order = Order((5, 7, 4), lanes=4, seed=5, window=8)
    whole = BatchIds(order, range(4))
    expected = [whole(step) for step in range(14)]
    for epoch in range(3):
        np.testing.assert_array_equal(np.stack(expected[4 * epoch : 4 * epoch + 4], 1), all_lanes(order, epoch))
    tail = BatchIds(order, range(4))
    np.testing.assert_array_equal(np.stack([tail(step) for step in range(first, 14)]), np.stack(expected[first:]))


def test_batch_ids_of_ranks_are_parts_of_the_batch():
    order = Order((11, 7, 4), lanes=6, seed=5, window=8)
    whole, parts = BatchIds(order, range(6)), [BatchIds(order, range(r, r + 2)) for r in (0, 2, 4)]
    for step in range(8):
        np.testing.assert_array_equal(np.concatenate([part(step) for part in parts]), whole(step))
