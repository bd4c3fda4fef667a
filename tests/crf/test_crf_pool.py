"""The pool keeps its order, holds a bounded number of images, and says so when a process of it dies."""

from __future__ import annotations

import os
import signal

import numpy as np
import pytest

from stego_dist.crf.backends import winners
from stego_dist.crf.pool import WAITING, CrfPool
from stego_dist.errors import UserError
from tests.crf.test_dense import scene


@pytest.fixture
def pool():
    pool: CrfPool[int] = CrfPool(2, "library")
    yield pool
    pool.close()


def test_order_and_bound(pool):
    sizes = [40, 12, 12, 40, 12, 12, 12, 40, 12]  # later ones are done sooner
    scenes = [scene(side, side, 4, seed) for seed, side in enumerate(sizes)]
    found = []
    for number, (image, log_probs) in enumerate(scenes):
        pool.submit(number, image, [log_probs, log_probs[:3]])
        found += list(pool.finished())
        assert number + 1 - len(found) <= WAITING * 2
    found += list(pool.finished(everything=True))
    assert [number for number, _ in found] == list(range(len(sizes)))
    for (image, log_probs), (_, maps) in zip(scenes, found):
        for expected, got in zip(winners("library", image, [log_probs, log_probs[:3]]), maps, strict=True):
            assert np.array_equal(expected, got)


def test_a_process_that_dies(pool):
    image, log_probs = scene(20, 20, 3, 0)
    pool.submit(0, image, [log_probs])
    assert len(list(pool.finished(everything=True))) == 1
    for pid in list(pool._pool._processes):
        os.kill(pid, signal.SIGKILL)
    with pytest.raises(UserError, match=r"a process of the CRF died .* eval\.crf_workers=1"):
        for _ in range(10):
            pool.submit(1, image, [log_probs])
            list(pool.finished(everything=True))
