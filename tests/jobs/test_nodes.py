"""Packing on a Ray cluster of two nodes, which `RAY_ADDRESS` names: the same bytes as one process writes."""

from __future__ import annotations

import pytest
from ray.cluster_utils import Cluster

from stego_dist.data.card import load_card
from stego_dist.data.pack import build
from stego_dist.data.plan import BuildOptions
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
