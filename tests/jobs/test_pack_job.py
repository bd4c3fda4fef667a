"""Shards packed by Ray workers: the same bytes as alone, also when a worker is killed in the middle of a shard."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from functools import partial
from pathlib import Path

import pytest

from stego_dist.data import pack
from stego_dist.data.card import load_card
from stego_dist.data.pack import Record, build
from stego_dist.data.plan import BuildOptions, PackTask, plan_build
from stego_dist.errors import UserError
from stego_dist.jobs import cluster as cluster_module
from stego_dist.jobs.cluster import ray_cluster
from stego_dist.jobs.pack import SERIAL_BELOW, packing_runner
from tests.data.test_pack import hashes
from tests.tiny import write_images

OPTIONS = BuildOptions(min_shards=5, crops="random")


@pytest.fixture(scope="module")
def cluster():
    with ray_cluster() as ray:
        ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers can't import this file
        yield ray
        ray.cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


@pytest.fixture(scope="module")
def raw(tmp_path_factory) -> Path:
    return write_images(tmp_path_factory.mktemp("raw"), train=20, val=0)


def kill_once(marker: Path, task: PackTask) -> Record:
    """Pack; the first to come to the third shard is killed after two of its images."""
    if task.name == "train-00002" and not marker.exists():
        marker.touch()
        cut_image, calls = pack.cut_image, []

        def die(*arguments):
            calls.append(arguments)
            if len(calls) == 3:
                os.kill(os.getpid(), signal.SIGKILL)
            return cut_image(*arguments)

        pack.cut_image = die
    return pack.pack_shard(task)


def pack_elsewhere(task: PackTask) -> Record:
    """As on a node with a file system of its own."""
    record = pack.pack_shard(task)
    task.record_path.unlink()
    return record


@pytest.mark.ray
def test_workers_write_what_one_process_writes_though_one_is_killed(cluster, raw, tmp_path):
    card, out = load_card("folder"), tmp_path / "out"
    build(card, raw, tmp_path / "alone", OPTIONS, ["train"])

    def runner(_, tasks):
        return packing_runner(2)(partial(kill_once, tmp_path / "killed"), tasks)

    build(card, raw, out, OPTIONS, ["train"], runner)
    assert (tmp_path / "killed").exists()
    assert hashes(out) == hashes(tmp_path / "alone")


@pytest.mark.ray
def test_an_error_names_shard_and_file_and_loses_no_finished_shard(cluster, raw, tmp_path):
    root, out, card = tmp_path / "raw", tmp_path / "out", load_card("folder")
    shutil.copytree(raw, root, copy_function=shutil.copy2)
    bad = root / "imgs/train/picture_09.jpg"
    good = bad.read_bytes()
    bad.write_bytes(b"")
    with pytest.raises(UserError, match=r"shard train-00004: .*picture_09\.jpg: the file is empty"):
        build(card, root, out, OPTIONS, ["train"], packing_runner(2))
    finished = {path: path.stat().st_ino for path in out.glob("*.tar")}
    assert finished
    bad.write_bytes(good)
    build(card, root, out, OPTIONS, ["train"], packing_runner(2))
    assert all(path.stat().st_ino == inode for path, inode in finished.items())


@pytest.mark.ray
def test_folders_that_nodes_do_not_share_are_named(cluster, raw, tmp_path):
    def runner(_, tasks):
        return packing_runner(2)(pack_elsewhere, tasks)

    with pytest.raises(UserError, match=r"shard train-0000\d was written to .* on another node.*share"):
        build(load_card("folder"), raw, tmp_path / "out", OPTIONS, ["train"], runner)


def test_many_images_or_workers_go_to_the_cluster_and_one_worker_does_not(raw, tmp_path, monkeypatch):
    tasks = plan_build(load_card("folder"), raw, tmp_path, OPTIONS, ["train"]).tasks
    many = [*tasks] * (SERIAL_BELOW // 20 + 1)
    started = []

    def run_tasks(fn, tasks, *, workers):
        started.append(workers)
        return map(fn, tasks)

    monkeypatch.setattr(cluster_module, "run_tasks", run_tasks)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)

    def where(workers, tasks, cpus=2):
        started.clear()
        monkeypatch.setattr("os.cpu_count", lambda: cpus)
        records = list(packing_runner(workers)(lambda task: {"name": task.name}, tasks))
        assert len(records) == len(tasks)
        return started[0] if started else "here"

    for task in tasks:
        task.record_path.parent.mkdir(parents=True, exist_ok=True)
        task.record_path.touch()
    assert where(None, many) is None and where(2, tasks) == 2
    assert where(1, many) == where(2, tasks[:1]) == where(None, tasks) == where(None, many, cpus=1) == "here"
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")  # this machine's CPUs say nothing about the cluster's
    assert where(None, many, cpus=1) is None
