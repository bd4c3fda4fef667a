"""One worker on this machine is this process: what a worker of a cluster gives, without Ray."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial

import pytest

from stego_dist.errors import ConfigError, UserError
from stego_dist.jobs import cluster as module
from stego_dist.jobs.cluster import alone, cluster_for, run_on_workers, run_tasks, worker_count
from stego_dist.jobs.embed import embed
from stego_dist.jobs.knn import build_table
from tests.conftest import REPO
from tests.jobs.test_cluster import (
    constant,
    divide,
    make_complaining,
    make_counting,
    square,
    square_or_complain,
)
from tests.tiny import build_shards, config_at, embed_and_search


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch):
    """Ray is not asked for."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(module, "ray_cluster", lambda: pytest.fail("a cluster was started"))


def test_results_come_in_order_lanes_and_follow_ups_too(tmp_path):
    assert list(run_tasks(square, [5, 1, 4], workers=1)) == [25, 1, 16]
    tasks = [1, 10, 2, 20, 3, 30]
    found = list(run_on_workers(partial(constant, square), tasks, workers=1, lane=lambda x: x >= 10))
    assert found == [1, 4, 9, 100, 400, 900]
    found = list(run_on_workers(partial(constant, square), [2, 5, 6], workers=1, then=lambda x: [x] if x < 10 else []))
    assert found == [4, 16, 25, 36]
    made = list(run_on_workers(partial(make_counting, tmp_path), range(9), workers=1))
    assert made == [(x, os.getpid()) for x in range(9)] and len(list(tmp_path.iterdir())) == 1


def test_errors_come_as_they_are():
    found = run_tasks(square_or_complain, range(8), workers=1)
    assert [next(found) for _ in range(3)] == [0, 1, 4]
    with pytest.raises(ConfigError, match=r"^task 3 is not wanted$"):
        next(found)
    with pytest.raises(ZeroDivisionError):
        list(run_tasks(divide, [1, 0], workers=1))
    with pytest.raises(UserError, match=r"^the model can't be loaded$"):
        list(run_on_workers(make_complaining, range(3), workers=1))


def test_when_one_worker_is_alone(monkeypatch):
    monkeypatch.setattr(module, "may_have_gpu", lambda: False)
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    assert alone(1, 1.0) and alone(None, 1.0) and worker_count(None, 1.0) == 1 and not alone(2, 1.0)
    with cluster_for(1, 1.0):
        pass
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    assert alone(1, 1.0) and not alone(None, 1.0)
    monkeypatch.setattr(module, "may_have_gpu", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    assert alone(None, 1.0) and not alone(None, 0.5)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert alone(1, 1.0) and not alone(None, 1.0)
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert not alone(1, 1.0)


def test_ray_is_not_even_loaded():
    script = (
        "import sys; from stego_dist.jobs.cluster import run_tasks; "
        "found = list(run_tasks(abs, [-1, 2], workers=1)); sys.exit(found != [1, 2] or 'ray' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], cwd=REPO).returncode == 0


@pytest.mark.parametrize("method", ["exact", "ivf"])
def test_features_and_table_are_those_of_the_parts(tmp_path, method):
    """By hand, shard after shard, and by the jobs."""
    build_shards(tmp_path, train=50 if method == "ivf" else 14)
    embed_and_search(config_at(tmp_path))
    (tmp_path / "features").rename(tmp_path / "by_hand")
    config = config_at(tmp_path, "features.workers=1", f"knn.method={method}")
    table = build_table(config, embed(config, bank=True))
    for path in (tmp_path / "by_hand").glob("*.npy"):
        assert path.read_bytes() == (tmp_path / "features" / path.name).read_bytes(), path.name
    if method == "exact":
        for path in (tmp_path / "by_hand" / "knn").glob("*.npy"):
            assert path.read_bytes() == (table / path.name).read_bytes(), path.name
    assert len(list(table.glob("*.ids.npy"))) == 5
