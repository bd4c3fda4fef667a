"""Embedding on a Ray cluster of several nodes, interrupted in the middle of a shard: the same files in the end.

The third shard is stopped after its first batch is written: its process is killed, or it waits for what is done to it.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster

from stego_dist.config import load_config
from stego_dist.errors import UserError
from stego_dist.jobs import embed as embed_module
from stego_dist.jobs.embed import embed
from tests.jobs.test_embed_job import contents, here
from tests.launching import environment
from tests.tiny import build_shards, config_at

pytestmark = pytest.mark.ray
SHARD = 2
LIMIT_S = 180.0


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers can't import this file
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        for _ in range(2):
            cluster.add_node(num_cpus=1)
        with pytest.MonkeyPatch.context() as monkeypatch:
            monkeypatch.setenv("RAY_ADDRESS", cluster.address)
            yield cluster
    finally:
        cluster.shutdown()
        ray.cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """Shards, and the store as it is without a cluster and without a fault."""
    root = tmp_path_factory.mktemp("made")
    build_shards(root, train=20, val=1)
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(embed_module, "run_on_workers", here)
        embed(config_at(root, "features.batch_size=2"), bank=True)
    return root


@pytest.fixture
def work(made, tmp_path) -> Path:
    """The shards, without features."""
    return Path(shutil.copytree(made, tmp_path / "work", ignore=shutil.ignore_patterns("features")))


def interrupting(folder: Path, stop: Callable[[], None], *arguments: Any) -> Callable[[int], Any]:
    """Makes a worker that calls `stop` in the middle of SHARD, the first time that this is done by anyone."""
    whole = embed_module.embed_shard

    def embed_shard(config, samples, backbone, shard, *more):
        batches = whole(config, samples, backbone, shard, *more)
        yield next(batches)
        if shard == SHARD and not (folder / "begun").exists():
            (folder / "begun").touch()
            stop()
        yield from batches

    embed_module.embed_shard = embed_shard
    return embed_module._make_worker(*arguments)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def wait_on_node(folder: Path) -> None:
    """Say on which node, and wait for its end."""
    (folder / "node.tmp").write_text(ray.get_runtime_context().get_node_id())
    (folder / "node.tmp").rename(folder / "node")
    time.sleep(LIMIT_S)


def node_that_waits(folder: Path) -> str:
    """The node of `wait_on_node`, once it is known."""
    end = time.monotonic() + LIMIT_S
    while not (folder / "node").exists():
        assert time.monotonic() < end, "the shard was not begun"
        time.sleep(0.02)
    return (folder / "node").read_text()


def interrupt(monkeypatch, work: Path, stop: Callable[[], None]) -> None:
    monkeypatch.setattr(embed_module, "_make_worker", partial(interrupting, work, stop))


def test_a_killed_worker(cluster, work, made, monkeypatch):
    interrupt(monkeypatch, work, die)
    embed(config_at(work, "features.batch_size=2"), bank=True)
    assert (work / "begun").exists()
    assert contents(work / "features") == contents(made / "features")


def test_a_sample_that_cannot_be_read_loses_no_other_shard(cluster, work, made, monkeypatch):
    tar = work / "shards" / "train-00000.tar"
    whole = tar.read_bytes()
    tar.write_bytes(whole[:-20_000].replace(b"\xff\xd8\xff", b"\0\0\0"))
    config = config_at(work, "features.batch_size=2")
    with pytest.raises(UserError, match=r"train-00000\.tar: sample 0000000"):
        embed(config, bank=True)
    finished = {path.name: path.stat().st_ino for path in (work / "features").glob("*.npy")}
    tar.write_bytes(whole)
    monkeypatch.setattr(embed_module, "run_on_workers", here)
    embed(config, bank=True)
    assert contents(work / "features") == contents(made / "features")
    assert {name: (work / "features" / name).stat().st_ino for name in finished} == finished


def run_until_killed(work: Path) -> None:
    """What the killed driver runs."""
    interrupting_here = partial(interrupting, work, partial(wait_on_node, work))
    embed_module._make_worker = interrupting_here
    embed(load_config(work / "config.yaml", ["features.batch_size=2"]), bank=True)


def test_a_killed_driver(cluster, work, made):
    config = config_at(work, "features.batch_size=2")
    script = (
        "import sys, ray; from pathlib import Path; from tests.jobs import test_embed_faults as test; "
        f"ray.cloudpickle.register_pickle_by_value(test); test.run_until_killed(Path({str(work)!r}))"
    )
    driver = subprocess.Popen([sys.executable, "-c", script], env=environment())
    try:
        node_that_waits(work)
    finally:
        driver.kill()
        driver.wait()
    done = {path.stem for path in (work / "features" / "parts").glob("*.json")}
    assert f"train-{SHARD:05d}" not in done and not (work / "features" / "manifest.json").exists()
    embed(config, bank=True)
    assert contents(work / "features") == contents(made / "features")


def test_a_lost_node(cluster, work, made, monkeypatch):
    """Comes last: the cluster has a node less."""

    def lose() -> None:
        lost = node_that_waits(work)
        (node,) = (node for node in cluster.list_all_nodes() if node.node_id == lost)
        cluster.remove_node(node, allow_graceful=False)

    interrupt(monkeypatch, work, partial(wait_on_node, work))
    loser = threading.Thread(target=lose)
    loser.start()
    start = time.monotonic()
    embed(config_at(work, "features.batch_size=2"), bank=True)
    loser.join()
    assert time.monotonic() - start < LIMIT_S  # nobody waited for the lost worker
    assert contents(work / "features") == contents(made / "features")
