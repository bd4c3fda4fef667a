"""Which sample fills which slot of which batch: a pure function of (seed, epoch, batch size) and the shards' sizes.

Slot i of every global batch is fed by lane i. In an epoch

1. the shards are put in a random order and their samples, one shard after the other, form a sequence of N;
2. the sequence is rotated by a random number and cut into as many equal lanes as the batch has slots (the remainder is
   left out of this epoch; with fewer samples than slots the sequence repeats);
3. inside a lane, consecutive windows are shuffled.

A lane is a few runs of consecutive samples of a few shards, so it can be streamed; a rank owns the lanes of its slots
and reads no other. World size, workers and restarts do not enter.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]


@dataclass(frozen=True)
class Run:
    """Consecutive samples of one shard."""

    shard: int
    first: int
    """Place of the first sample in the shard."""
    count: int


@dataclass(frozen=True)
class Order:
    """The order of a split's samples.

    counts: samples of each shard, in order. lanes: slots of the global batch. window: samples of all lanes
    together that are shuffled at a time.
    """

    counts: tuple[int, ...]
    lanes: int
    seed: int
    window: int

    @property
    def lane_length(self) -> int:
        """Samples of a lane in an epoch, which is the number of batches of an epoch."""
        return max(1, sum(self.counts) // self.lanes)

    @property
    def lane_window(self) -> int:
        """Samples of one lane that are shuffled together."""
        return max(1, self.window // self.lanes)

    def runs(self, epoch: int, lane: int) -> list[Run]:
        """What a lane reads in an epoch, in the order of reading."""
        total = sum(self.counts)
        rng = np.random.default_rng([self.seed, epoch, 0])
        order = rng.permutation(len(self.counts))
        start = int(rng.integers(total)) + lane * self.lane_length
        edges = np.cumsum([0, *(self.counts[shard] for shard in order)])
        runs, left, at = [], self.lane_length, start % total
        while left:
            place = int(np.searchsorted(edges, at, side="right")) - 1
            count = min(left, int(edges[place + 1]) - at)
            runs.append(Run(int(order[place]), at - int(edges[place]), count))
            left, at = left - count, (at + count) % total
        return runs

    def windows(self, epoch: int, lane: int) -> Iterator[tuple[list[Run], NDArray[np.int64]]]:
        """The lane's windows: what each reads, and the permutation in which it hands it out."""
        size, pending, number = self.lane_window, self.runs(epoch, lane), 0
        while pending:
            taken: list[Run] = []
            room = size
            while pending and room:
                run = pending.pop(0)
                part = Run(run.shard, run.first, min(run.count, room))
                taken.append(part)
                room -= part.count
                if run.count > part.count:
                    pending.insert(0, Run(run.shard, run.first + part.count, run.count - part.count))
            rng = np.random.default_rng([self.seed, epoch, 1, lane, number])
            yield taken, rng.permutation(sum(run.count for run in taken))
            number += 1

    def lane_ids(self, epoch: int, lane: int) -> Ids:
        """Sample ids (lane_length,) in the order in which the lane gives them."""
        starts = np.cumsum([0, *self.counts])
        parts = []
        for runs, permutation in self.windows(epoch, lane):
            ids = np.concatenate([np.arange(run.count) + starts[run.shard] + run.first for run in runs])
            parts.append(ids[permutation])
        return np.concatenate(parts)

    def position(self, step: int) -> tuple[int, int]:
        """(epoch, batch of the epoch) of a training step, counted from 0."""
        return divmod(step, self.lane_length)


class BatchIds:
    """Sample ids of the batches, lane by lane, an epoch at a time; for training that reads no images."""

    def __init__(self, order: Order, lanes: range) -> None:
        self.order, self.lanes = order, lanes
        self._epoch, self._ids = -1, np.empty((0, 0), np.int64)

    def __call__(self, step: int) -> Ids:
        """Ids (len(lanes),) of a step's batch."""
        epoch, batch = self.order.position(step)
        if epoch != self._epoch:
            self._epoch = epoch
            self._ids = np.stack([self.order.lane_ids(epoch, lane) for lane in self.lanes])
        return self._ids[:, batch]
