"""Ray clusters of several nodes, which `RAY_ADDRESS` names: packing, and what happens when nodes are lost."""

from __future__ import annotations

import os
import sys
import time

import pytest
import ray
from ray.cluster_utils import Cluster

from stego_dist.data.card import load_card
from stego_dist.data.pack import build
from stego_dist.data.plan import BuildOptions
from stego_dist.errors import UserError
from stego_dist.jobs import pool
from stego_dist.jobs.cluster import run_on_workers
from stego_dist.jobs.pack import packing_runner
from tests.tiny import write_images

pytestmark = pytest.mark.ray


def test_two_nodes_write_what_one_process_writes(tmp_path, monkeypatch):
    source = write_images(tmp_path / "source", train=24, val=6)
    card, options = load_card("folder"), BuildOptions(crops="random", min_shards=6)
    alone = build(card, source, tmp_path / "alone", options)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        cluster.add_node(num_cpus=1)
        monkeypatch.setenv("RAY_ADDRESS", cluster.address)
        together = build(card, source, tmp_path / "together", options, runner=packing_runner(2))
    finally:
        cluster.shutdown()
    for file in [*sorted((tmp_path / "alone").glob("*.tar")), tmp_path / "alone" / "manifest.json"]:
        assert file.read_bytes() == (tmp_path / "together" / file.name).read_bytes(), file.name
    assert alone.manifest == together.manifest


def slow_square(x: int) -> tuple[int, str]:
    time.sleep(0.3)
    return x * x, os.environ.get("CUDA_VISIBLE_DEVICES", "")


def test_a_node_that_is_lost_costs_seconds_and_no_result(monkeypatch, capfd):
    """Its GPU (which only Ray believes in) is shared by two workers; so is that of the node that stays."""
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers can't import this file
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        nodes = [cluster.add_node(num_cpus=2, num_gpus=1) for _ in range(2)]
        monkeypatch.setenv("RAY_ADDRESS", cluster.address)
        found = run_on_workers(lambda: slow_square, range(24), gpus=0.5)
        first = [next(found) for _ in range(4)]
        cluster.remove_node(nodes[0], allow_graceful=False)
        start = time.monotonic()
        rest = list(found)
        assert sorted(x for x, _ in first + rest) == [x * x for x in range(24)]
        assert {devices for _, devices in first + rest} == {"0"}
        assert "the Ray cluster has 4 CPU(s) and 2 GPU(s)" in capfd.readouterr().err
        assert time.monotonic() - start < 120  # Ray by itself waits for ever for the node

        found = run_on_workers(lambda: slow_square, range(24), gpus=0.5)
        next(found)
        monkeypatch.setattr(pool, "START_TIMEOUT_S", 3.0)
        cluster.remove_node(nodes[1], allow_graceful=False)
        with pytest.raises(UserError, match=r"no worker of the Ray cluster is left, and in 3 s none could be started"):
            list(found)
    finally:
        cluster.shutdown()
