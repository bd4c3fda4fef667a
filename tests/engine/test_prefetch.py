"""Prefetching changes neither the batches nor their order, passes on errors, and ends when it is closed."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch

from stego_dist.engine.feed import Batch
from stego_dist.engine.prefetch import DEPTH, prefetch

CPU = torch.device("cpu")


def batch(number: int) -> Batch:
    return Batch(*(torch.full((2,), number) for _ in range(4)), None)


class Source:
    """Batches 0, 1, …; keeps what was asked of it."""

    def __init__(self, count: int, error: BaseException | None = None) -> None:
        self.count, self.error = count, error
        self.read, self.threads, self.closed = 0, [], False

    def batches(self) -> Iterator[Batch]:
        try:
            for number in range(self.count):
                self.threads.append(threading.current_thread().name)
                self.read += 1
                yield batch(number)
            if self.error is not None:
                raise self.error
        finally:
            self.closed = True


def readers() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "prefetch"]


@pytest.mark.parametrize("count", [0, 1, 2, 9])
def test_all_batches_in_order(count):
    source = Source(count)
    assert [int(b.ids[0]) for b in prefetch(source.batches(), CPU)] == list(range(count))
    assert source.closed and not readers()


def test_the_first_batch_is_read_by_the_caller():
    source = Source(3)
    list(prefetch(source.batches(), CPU))
    assert source.threads == [threading.current_thread().name, "prefetch", "prefetch"]


@pytest.mark.parametrize("count", [0, 3])
def test_an_error_comes_in_its_turn(count):
    got = []
    with pytest.raises(OSError, match="lost"):
        for b in prefetch(Source(count, OSError("lost")).batches(), CPU):
            got.append(int(b.ids[0]))
    assert got == list(range(count)) and not readers()


def test_closing_ends_the_reader_which_reads_no_more_than_its_depth_ahead():
    source = Source(1000)
    ahead = prefetch(source.batches(), CPU)
    for _ in range(3):
        next(ahead)
    ahead.close()
    assert source.closed and not readers()
    assert source.read <= 3 + DEPTH + 1
