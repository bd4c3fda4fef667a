"""The order in which tasks are handed out, and how many workers of which size fit a cluster."""

from __future__ import annotations

import pytest

from stego_dist.jobs.cluster import _threads, room_for
from stego_dist.jobs.pool import Lanes


def test_one_lane_keeps_the_order():
    lanes = Lanes([5, 1, 4])
    assert [lanes.take(None, {None}).task for _ in range(3)] == [5, 1, 4] and not lanes


def test_own_lane_then_a_free_one_then_the_fullest():
    lanes = Lanes(["a1", "b1", "c1", "a2", "c2", "c3"], lane=lambda task: task[0])
    assert lanes.take("nobody's", set()).task == "a1"
    assert lanes.take("a", {"b"}).task == "a2"
    assert lanes.take("a", {"b"}).task == "c1"
    assert lanes.take("a", {"b", "c"}).task == "c2"
    assert lanes.take("a", {"c"}).task == "b1"
    assert lanes.take("a", {"b", "c"}).task == "c3" and len(lanes) == 0


def test_what_is_put_back_is_next_and_follow_ups_are_before_it():
    lanes = Lanes(["a1", "a2", "b1"], lane=lambda task: task[0])
    job = lanes.take("a", set())
    lanes.put_back(job)
    lanes.go_ahead(["x", "y"])
    assert len(lanes) == 5
    x = lanes.take("a", set())
    lanes.put_back(x)
    assert [lanes.take("a", set()).task for _ in range(5)] == ["x", "y", "a1", "a2", "b1"]


NODES = [{"CPU": 16.0, "GPU": 2.0}, {"CPU": 16.0, "GPU": 2.0}, {"CPU": 2.0}]


@pytest.mark.parametrize(
    ("gpus", "workers", "places", "threads"),
    [(1.0, 4, 4, 8), (0.5, 8, 8, 4), (0.25, 16, 16, 2), (2.0, 2, 2, 16), (3.0, 1, 0, 1), (0.0, 34, 34, 1),
     (0.0, 3, 34, 8), (0.0, 2, 34, 16), (0.0, 1, 34, 16), (0.0, 100, 34, 1)],
)  # fmt: skip
def test_workers_that_fit_and_their_threads(gpus, workers, places, threads):
    assert room_for(NODES, 1, gpus) == places
    assert _threads(NODES, workers, gpus) == threads
