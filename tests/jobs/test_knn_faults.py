"""The neighbour table when workers, nodes and the driver are killed in the middle: the same bytes as undisturbed."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import ray
from ray.cluster_utils import Cluster

from stego_dist.errors import UserError
from stego_dist.jobs import knn as module
from stego_dist.jobs.cluster import run_on_workers
from stego_dist.jobs.knn import build_table
from stego_dist.jobs.knn_worker import Build, Done, Job, Merge, Search, Task, Train, make_worker
from stego_dist.knn.table import knn_dir
from tests.conftest import REPO
from tests.jobs.test_knn_job import FEATURES, clustered, contents, write_store
from tests.tiny import config_at

pytestmark = pytest.mark.ray
SIZES = [30 + i for i in range(30)]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Path:
    """A store, and its tables, exact and by an inverted file, built without any trouble."""
    root = tmp_path_factory.mktemp("undisturbed")
    write_store(root / "features", clustered(sum(SIZES)), SIZES)
    return root


@pytest.fixture(scope="module")
def cluster():
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers can't import this file
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("RAY_ADDRESS", cluster.address)
        yield cluster
    cluster.shutdown()
    ray.cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


@pytest.fixture(scope="module")
def tables(undisturbed, cluster) -> dict[str, dict[str, bytes]]:
    found = {}
    cluster.add_node(num_cpus=1)
    for method in ("exact", "ivf"):
        config = config_at(undisturbed, f"knn.method={method}", "features.workers=2")
        build_table(config, FEATURES, overwrite=True)
        found[method] = contents(knn_dir(config))
    return found


def after(monkeypatch, results: int, accident: Callable[[], object]) -> None:
    """Let an accident happen in the driver when so many tasks are finished."""
    seen = [0]

    def disturbed(*arguments, **options):
        for result in run_on_workers(*arguments, **options):
            yield result
            seen[0] += 1
            if seen[0] == results:
                accident()

    monkeypatch.setattr(module, "run_on_workers", disturbed)


def dying(at: Task, marker: Path, job: Job) -> Callable[[Task], Done]:
    """Makes a worker that is killed when it has done the task `at`, before it can say so; the first one only."""
    run = make_worker(job)

    def disturbed(task: Task) -> Done:
        done = run(task)
        if task == at and not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return done

    return disturbed


@pytest.mark.parametrize(
    ("method", "at"), [("exact", Search(3, 0)), ("exact", Merge(4)), ("ivf", Train()), ("ivf", Build(0))]
)
def test_a_killed_worker(undisturbed, tables, tmp_path, monkeypatch, capsys, method, at):
    shutil.copytree(undisturbed / "features", tmp_path / "features", ignore=shutil.ignore_patterns("knn"))
    config = config_at(tmp_path, f"knn.method={method}", "features.workers=2")
    monkeypatch.setattr(module, "make_worker", partial(dying, at, tmp_path / "marker"))
    build_table(config, FEATURES)
    assert contents(knn_dir(config)) == tables[method]
    assert capsys.readouterr().err.count("a worker died") == 1


def test_a_lost_node(undisturbed, tables, cluster, tmp_path, monkeypatch):
    shutil.copytree(undisturbed / "features", tmp_path / "features", ignore=shutil.ignore_patterns("knn"))
    config = config_at(tmp_path, "knn.method=exact", "features.workers=3")
    node = cluster.add_node(num_cpus=1)
    lost = []

    def accident() -> None:
        lost.append(time.monotonic())
        cluster.remove_node(node, allow_graceful=False)

    after(monkeypatch, 5, accident)
    build_table(config, FEATURES)
    assert time.monotonic() - lost[0] < 60  # seconds, not minutes
    assert contents(knn_dir(config)) == tables["exact"]


@pytest.mark.long
def test_a_killed_driver(undisturbed, tables, tmp_path):
    """Its cluster goes with it; started again, the job goes on from what is finished."""
    shutil.copytree(undisturbed / "features", tmp_path / "features", ignore=shutil.ignore_patterns("knn"))
    config = config_at(tmp_path, "knn.method=exact", "features.workers=2")
    script = (
        "from stego_dist.config import load_config\n"
        "from stego_dist.jobs.knn import build_table\n"
        f"config = load_config({str(tmp_path / 'config.yaml')!r}, ['knn.method=exact', 'features.workers=2'])\n"
        f"build_table(config, {FEATURES!r})\n"
    )
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    driver = subprocess.Popen(
        [sys.executable, "-c", script], env={**environment, "PYTHONPATH": str(REPO)}, start_new_session=True
    )
    parts = knn_dir(config) / "parts"
    deadline = time.monotonic() + 120
    while len(list(parts.glob("*.json"))) < 2:
        assert driver.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)
    driver.kill()
    driver.wait()
    done = len(list(parts.glob("*.json")))
    build_table(config, FEATURES)
    assert contents(knn_dir(config)) == tables["exact"]
    assert done < len(SIZES), "killed too late to show anything"


def test_a_damaged_shard_is_named(undisturbed, tables, tmp_path):
    shutil.copytree(undisturbed / "features", tmp_path / "features", ignore=shutil.ignore_patterns("knn"))
    path = tmp_path / "features" / "train-00003.descriptors.npy"
    os.truncate(path, path.stat().st_size - 10)
    with pytest.raises(UserError, match=r"train-00003|is damaged") as error:
        build_table(config_at(tmp_path, "features.workers=2"), FEATURES)
    assert "knn build CONFIG" in str(error.value)
