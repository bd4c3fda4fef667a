"""Sweeps on a Ray cluster of several nodes in which trials, the driver and a node are lost: the same results."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import ray
from ray.cluster_utils import Cluster

from stego_dist.jobs.cluster import ray_cluster
from stego_dist.jobs.sweep.drive import Resources, drive
from stego_dist.jobs.sweep.plan import Folder, begin, read_plan
from tests.jobs import sweeping
from tests.jobs.sweeping import TRIAL, at_a_validation, complaining, die, lasting, plan_at, scripted, wait, waiting_node
from tests.launching import environment
from tests.tiny import build_shards, embed_and_search

pytestmark = pytest.mark.ray
ONE = Resources(cpus=1)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    ray.cloudpickle.register_pickle_by_value(sweeping)  # workers can't import it
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        for _ in range(2):
            cluster.add_node(num_cpus=1)
        with pytest.MonkeyPatch.context() as monkeypatch:
            monkeypatch.setenv("RAY_ADDRESS", cluster.address)
            with ray_cluster():
                yield cluster
    finally:
        cluster.shutdown()
        ray.cloudpickle.unregister_pickle_by_value(sweeping)


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("prepared")
    build_shards(root)
    embed_and_search(plan_at(root).base)
    return root


def sweep_at(root: Path, name: str, **more) -> Folder:
    folder = Folder(root / name)
    begin(plan_at(root, **more), folder, resume=False, overwrite=False)
    return folder


@pytest.fixture(scope="module")
def undisturbed(cluster, root) -> dict:
    folder = sweep_at(root, "undisturbed")
    assert drive(read_plan(folder), folder, ONE) is None
    found = lasting(folder)
    assert [result["state"] for result in found.values()] == ["done"] * 4
    assert all([step for step, _ in result["curve"]] == [2, 4, 6] for result in found.values())
    return found


def test_a_killed_trial(cluster, root, undisturbed, capfd):
    folder = sweep_at(root, "killed")
    assert drive(read_plan(folder), folder, ONE, work=partial(at_a_validation, die)) is None
    assert (folder.root / "happened").exists() and lasting(folder) == undisturbed
    said = capfd.readouterr().err
    assert f"trial {TRIAL} failed, it is tried again: its worker died" in said
    assert not folder.tune.exists()


def run_until_killed(folder: Path) -> None:
    """What the killed driver runs, one trial at a time."""
    ray.cloudpickle.register_pickle_by_value(sweeping)
    kept = Folder(folder)
    drive(read_plan(kept), kept, Resources(concurrent=1), work=partial(at_a_validation, wait))


@pytest.mark.long
def test_a_killed_driver(cluster, root, undisturbed):
    folder = sweep_at(root, "driver")
    script = (
        "from pathlib import Path; from tests.jobs import test_sweep_faults as test; "
        f"test.run_until_killed(Path({str(folder.root)!r}))"
    )
    driver = subprocess.Popen([sys.executable, "-c", script], env=environment())
    try:
        waiting_node(folder.root, driver)
    finally:
        driver.kill()
        driver.wait()
    before = {n: folder.result(n).stat().st_ino for n in folder.results()}
    assert sorted(before) == [0, 1]
    begin(read_plan(folder), folder, resume=True, overwrite=False)
    assert drive(read_plan(folder), folder, ONE) is None
    assert lasting(folder) == undisturbed
    assert {n: folder.result(n).stat().st_ino for n in before} == before  # not repeated


@pytest.mark.long
def test_failing_trials_are_tried_again_and_then_given_up(cluster, root, capfd):
    folder = sweep_at(root, "complaining")
    assert drive(read_plan(folder), folder, ONE, retries=1, work=complaining) is None
    states = {n: (result.state, result.reason) for n, result in folder.results().items()}
    assert states == {
        0: ("done", None),
        1: ("failed", "the images of trial 1 are gone"),
        2: ("done", None),
        3: ("done", None),
    }
    tries = {n: len((folder.trial(n) / "tries").read_text()) for n in range(4)}
    assert tries == {0: 1, 1: 2, 2: 2, 3: 1}
    said = capfd.readouterr().err
    assert "trial 2 failed, it is tried again: ValueError: once only" in said
    assert "trial 1 failed for good: the images of trial 1 are gone" in said


def test_what_falls_behind_is_stopped_and_its_actor_goes_on(cluster, root):
    folder = sweep_at(root, "asha", early_stop="asha", grace=2, reduction=2.0, trials=6)
    assert drive(read_plan(folder), folder, Resources(concurrent=1), work=scripted) is None
    results = folder.results()
    assert [results[n].state for n in range(6)] == ["done", "stopped", "done", "stopped", "done", "stopped"]
    assert all(results[n].step == 2 and results[n].curve == [(1, 0.0), (2, 0.0)] for n in (1, 3, 5))
    pids = {(folder.trial(n) / "pids").read_text() for n in range(6)}
    assert len(pids) == 1  # one actor performed all of them
    for n in (2, 3, 4, 5):  # what was before is known to a sweep that goes on
        shutil.rmtree(folder.trial(n))
    assert drive(read_plan(folder), folder, Resources(concurrent=1), work=scripted) is None
    assert folder.results()[3].state == "stopped" and folder.results()[3].step == 2


@pytest.mark.long
def test_a_lost_node(cluster, root, undisturbed):
    """Comes last: the cluster has a node less."""
    folder = sweep_at(root, "node")

    def lose() -> None:
        lost = waiting_node(folder.root)
        (node,) = (node for node in cluster.list_all_nodes() if node.node_id == lost)
        cluster.remove_node(node, allow_graceful=False)

    loser = threading.Thread(target=lose)
    loser.start()
    start = time.monotonic()
    assert drive(read_plan(folder), folder, ONE, work=partial(at_a_validation, wait)) is None
    loser.join()
    assert time.monotonic() - start < sweeping.LIMIT_S  # nobody waited for the lost worker
    assert lasting(folder) == undisturbed
