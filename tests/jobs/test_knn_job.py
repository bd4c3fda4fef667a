"""The neighbour table as a job: right rows, the same files whatever the workers, nothing done twice, nothing stale.

What needs a cluster to be shown runs on a real one; the rest calls the same task functions here.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stego_dist import rundir
from stego_dist.config import Config
from stego_dist.engine.inputs import open_store, open_table
from stego_dist.errors import ConfigError, StaleInputError, UserError
from stego_dist.features.store import ShardFeatures, write_manifest, write_shard
from stego_dist.jobs import knn as module
from stego_dist.jobs import knn_worker
from stego_dist.jobs.cluster import ray_cluster
from stego_dist.jobs.knn import build_table
from stego_dist.knn.ivf import build_share as build
from stego_dist.knn.ivf import recall
from stego_dist.knn.search import search
from stego_dist.knn.table import knn_dir, knn_fingerprint
from tests.knn.database import Array, brute_force, on_grid
from tests.tiny import config_at

FEATURES = {"shards": "some"}
SIZES = (40, 1, 90, 70, 99)


def here(
    make: Callable[[], Callable[[Any], Any]],
    tasks: Sequence[Any],
    *,
    then: Callable[[Any], Iterable[Any]] | None = None,
    **options: object,
) -> Iterator[Any]:
    """What Ray workers do, without them."""
    work, left = make(), deque(tasks)
    while left:
        result = work(left.popleft())
        left.extendleft(then(result) if then else ())
        yield result


@pytest.fixture(scope="module")
def cluster():
    with ray_cluster() as ray:
        yield ray


@pytest.fixture(autouse=True)
def workers(request, monkeypatch):
    """The cluster for tests that are marked `ray`."""
    if request.node.get_closest_marker("ray"):
        request.getfixturevalue("cluster")
    else:
        alone(monkeypatch)


def alone(monkeypatch, shares: int = 1, runner: Any = here) -> None:
    """No cluster: as many shares, worked through here."""
    monkeypatch.setattr(module, "run_on_workers", runner)
    monkeypatch.setattr(module, "worker_count", lambda *_: shares)
    monkeypatch.setattr(module, "cluster_for", lambda *_: nullcontext())


def clustered(count: int, dim: int = 24, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((max(2, count // 40), dim))
    return on_grid(centres[rng.integers(0, len(centres), count)] + 0.4 * rng.standard_normal((count, dim)))


def write_store(root: Path, feats: np.ndarray, sizes: Sequence[int], sources: np.ndarray | None = None) -> None:
    """A feature store of these descriptors."""
    sources = np.arange(len(feats)) // 5 if sources is None else sources
    names, first = [f"train-{i:05d}" for i in range(len(sizes))], 0
    for name, size in zip(names, sizes):
        part = slice(first, first + size)
        write_shard(root, name, ShardFeatures(feats[part], sources[part], None, None), FEATURES)
        first += size
    write_manifest(root, names, FEATURES)


@pytest.fixture
def work(tmp_path) -> Path:
    write_store(tmp_path / "features", clustered(sum(SIZES)), SIZES)
    return tmp_path


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def rows(config: Config) -> np.ndarray:
    table = open_table(config, FEATURES)
    return table.rows(np.arange(len(table)))


def no_work(*arguments: object, **options: object) -> None:
    pytest.fail("work was done again")


def exactly(config: Config) -> np.ndarray:
    return brute_force(open_store(config, FEATURES).descriptors(0, sum(SIZES)), config.knn.k).ids


@pytest.mark.ray
def test_the_table_is_a_brute_force_over_the_descriptors(work):
    config = config_at(work, "features.workers=2")
    assert build_table(config, FEATURES) == knn_dir(config)
    expected = brute_force(open_store(config, FEATURES).descriptors(0, sum(SIZES)), config.knn.k)
    table = open_table(config, FEATURES)
    np.testing.assert_array_equal(table.rows(np.arange(sum(SIZES))), expected.ids)
    np.testing.assert_array_equal(table.similarities(np.arange(sum(SIZES))), expected.similarities)
    assert sorted(contents(knn_dir(config))) == sorted(
        ["manifest.json", "method.json"]
        + [f"parts/train-{i:05d}.json" for i in range(5)]
        + [f"train-{i:05d}.{kind}.npy" for i in range(5) for kind in ("ids", "similarities")]
    )


@pytest.mark.parametrize("shares", [1, 2, 7])
@pytest.mark.parametrize("backend", ["faiss", "torch"])
def test_shares_memory_and_backends_do_not_change_the_table(work, monkeypatch, shares, backend):
    build_table(config_at(work), FEATURES)
    written = contents(work / "features" / "knn")
    alone(monkeypatch, shares)
    config = config_at(work, f"knn.backend={backend}", "knn.memory_gb=0.1")
    monkeypatch.setattr(knn_worker, "QUERIES", 33)
    build_table(config, FEATURES, overwrite=True)
    assert contents(work / "features" / "knn") == written
    monkeypatch.setattr(module, "run_on_workers", no_work)
    build_table(config, FEATURES)


@pytest.mark.parametrize("shares", [1, 3])
def test_rules_reach_the_search(work, monkeypatch, shares):
    alone(monkeypatch, shares)
    config = config_at(work, "knn.exclude_same_image=true", "knn.min_similarity=0.91", "knn.k=9")
    build_table(config, FEATURES)
    store = open_store(config, FEATURES)
    expected = brute_force(store.descriptors(0, len(store)), 9, store.sources, 0.91)
    np.testing.assert_array_equal(rows(config), expected.ids)
    assert (expected.ids == -1).any()


def test_a_job_goes_on_from_what_is_finished(work, monkeypatch):
    """Stopped after every number of tasks, with another number of workers each time it is started again."""
    build_table(config_at(work), FEATURES)
    written = contents(work / "features" / "knn")
    for stop in range(1, 14, 3):
        shutil.rmtree(work / "features" / "knn")
        ran: list[str] = []

        def stopping(make, tasks, *, then=None, limit=stop, ran=ran, **options):
            for number, result in enumerate(here(make, tasks, then=then)):
                ran.append(repr(result.task))
                yield result
                if number + 1 == limit:
                    raise KeyboardInterrupt

        alone(monkeypatch, 2, stopping)
        with pytest.raises(KeyboardInterrupt):
            build_table(config_at(work), FEATURES)
        alone(
            monkeypatch,
            2,
            lambda make, tasks, ran=ran, **o: (ran.append(repr(r.task)) or r for r in here(make, tasks, **o)),
        )
        build_table(config_at(work), FEATURES)
        assert len(ran) == len(set(ran)) == 5 * 2 + 5, "a finished task was done again"
        assert contents(work / "features" / "knn") == written
    (work / "features" / "knn" / "parts" / "train-00001.json").unlink()
    alone(monkeypatch, 3)
    build_table(config_at(work), FEATURES)
    assert contents(work / "features" / "knn") == written


def test_candidates_of_another_table_are_not_merged(work, monkeypatch):
    def first_task(make, tasks, *, then=None, **options):
        yield next(here(make, tasks, then=then))
        raise KeyboardInterrupt

    alone(monkeypatch, 2, first_task)
    with pytest.raises(KeyboardInterrupt):
        build_table(config_at(work, "knn.exclude_same_image=true"), FEATURES)
    assert list((work / "features" / "knn").glob("candidates-*/*.npy"))
    alone(monkeypatch, 2)
    config = config_at(work)
    build_table(config, FEATURES)
    np.testing.assert_array_equal(rows(config), exactly(config))
    assert not list((work / "features" / "knn").glob("candidates-*"))


def test_a_stale_table_is_refused_by_name(work):
    build_table(config_at(work), FEATURES)
    changed = config_at(work, "knn.k=7", "knn.exclude_same_image=true", "knn.min_similarity=0.5", "knn.method=ivf")
    for attempt in (lambda: build_table(changed, FEATURES), lambda: open_table(changed, FEATURES)):
        with pytest.raises(StaleInputError) as error:
            attempt()
        for line in (
            "knn.exclude_same_image: made with False, now True", "knn.k: made with 5, now 7", "--overwrite",
            "knn.min_similarity: made with None, now 0.5", "knn.method: made with 'exact', now 'ivf'",
        ):  # fmt: skip
            assert line in str(error.value)
    build_table(changed, FEATURES, overwrite=True)
    assert open_table(changed, FEATURES).rows(np.array([0])).shape == (1, 7)


def test_a_table_needs_a_store_and_memory(work):
    with pytest.raises(UserError, match=r"knn\.memory_gb: 0\.01 is too little"):
        build_table(config_at(work, "knn.memory_gb=0.01"), FEATURES)
    shutil.rmtree(work / "features")
    with pytest.raises(UserError, match=r"feature store not found: .*stego-dist knn build CONFIG"):
        build_table(config_at(work), FEATURES)
    assert knn_fingerprint(config_at(work), FEATURES)["knn.k"] == 5


BIG = (1500, 700, 1800)


@pytest.fixture(scope="module")
def big(tmp_path_factory) -> Path:
    """Enough descriptors for an inverted file."""
    root = tmp_path_factory.mktemp("big")
    write_store(root / "features", clustered(sum(BIG), 32), BIG)
    return root


@pytest.mark.parametrize(("code", "shares"), [("flat", 1), ("flat", 3), ("sq8", 2), ("pq", 2)])
def test_the_inverted_file_finds_almost_all_and_says_how_much(big, tmp_path, monkeypatch, capsys, code, shares):
    alone(monkeypatch, shares)
    shutil.copytree(big / "features", tmp_path / "features")
    config = config_at(tmp_path, "knn.method=ivf", f"knn.ivf_code={code}", "knn.recall=0.9", "knn.k=11")
    build_table(config, FEATURES)
    store, table = open_store(config, FEATURES), open_table(config, FEATURES)
    ids = np.arange(len(store))
    truth = search(query_ids=ids, database=Array(store.descriptors(0, len(store))), k=11)
    found = table.rows(ids)
    manifest = json.loads((knn_dir(config) / "manifest.json").read_text())
    said = manifest["recall"]
    assert manifest["method"] == "ivf" and said["queries"] == 1024 and manifest["nprobe"] >= 1
    for k in (3, 10):
        true = recall(found, truth.ids, k)
        assert said[f"recall@{k}"] == pytest.approx(true, abs=0.03) and true > 0.85
        assert f"recall@{k} {said[f'recall@{k}']:.3f}" in capsys.readouterr().err or k == 10
    both = found == truth.ids  # what is found has the exact similarity
    np.testing.assert_array_equal(table.similarities(ids)[both], truth.similarities[both])
    assert (found[:, 0] == ids).all() and not list(knn_dir(config).glob("ivf-*"))
    similarities = table.similarities(ids)[:, 1:]
    assert (np.diff(similarities, axis=1) <= 0).all()


def test_a_recall_that_is_not_reached_is_said(big, tmp_path, monkeypatch, capsys):
    alone(monkeypatch)
    monkeypatch.setattr(module, "recall", lambda found, truth, k: 0.5)
    shutil.copytree(big / "features", tmp_path / "features")
    build_table(config_at(tmp_path, "knn.method=ivf"), FEATURES)
    assert "knn.recall=0.95 is not reached: the inverted file finds 0.500" in capsys.readouterr().err


def test_an_inverted_file_that_was_begun_goes_on_the_same(big, tmp_path, monkeypatch):
    """Stopped after training, building or a few searches, with another number of workers afterwards."""
    results = []
    for limit in (None, 1, 2, 5):
        root = tmp_path / str(limit)
        shutil.copytree(big / "features", root / "features")

        def stopping(make, tasks, *, then=None, limit=limit, seen=[0], **options):  # noqa: B006
            for result in here(make, tasks, then=then):
                yield result
                seen[0] += 1
                if seen[0] == limit:
                    raise KeyboardInterrupt

        alone(monkeypatch, 2, stopping)
        config = config_at(root, "knn.method=ivf", "knn.recall=0.9")
        if limit:
            with pytest.raises(KeyboardInterrupt):
                build_table(config, FEATURES)
            alone(monkeypatch, 5)
        build_table(config, FEATURES)
        results.append(contents(knn_dir(config)))
    assert all(result == results[0] for result in results)


def test_an_inverted_file_must_fit_and_another_one_is_not_taken_for_it(big, tmp_path, monkeypatch):
    shutil.copytree(big / "features", tmp_path / "features")
    with pytest.raises(
        ConfigError, match=r"knn\.memory_gb=0\.067: .*\(flat\) takes 67\.7 MB; use knn\.ivf_code=sq8 or pq"
    ):
        build_table(config_at(tmp_path, "knn.method=ivf", "knn.memory_gb=0.067"), FEATURES)

    def trained_only(make, tasks, *, then=None, **options):
        yield next(here(make, tasks, then=then))
        raise KeyboardInterrupt

    alone(monkeypatch, 2, trained_only)
    with pytest.raises(KeyboardInterrupt):
        build_table(config_at(tmp_path, "knn.method=ivf"), FEATURES)
    begun = {path.read_bytes() for path in knn_dir(config_at(tmp_path)).glob("ivf-*/trained.index")}
    alone(monkeypatch, 2, lambda make, tasks, *, then=None, **o: here(make, tasks, then=then))
    seen = []

    def spy(trained: Path, *rest: Any) -> None:
        seen.append(trained.read_bytes())
        build(trained, *rest)

    monkeypatch.setattr(knn_worker, "build_share", spy)
    build_table(config_at(tmp_path, "knn.method=ivf", "knn.ivf_code=sq8"), FEATURES)
    assert len(seen) == 2 and not begun & set(seen)


def test_auto_takes_what_is_estimated_to_be_cheaper(work, monkeypatch, capsys):
    config = config_at(work)
    build_table(config, FEATURES)
    assert knn_fingerprint(config, FEATURES)["knn.method"] == "exact"
    monkeypatch.setattr(module, "SURELY_EXACT", 0)
    for chosen in ("ivf", "exact"):
        monkeypatch.setattr(module, "choose", lambda exact, ivf, chosen=chosen: (chosen, "because"))
        build_table(config, FEATURES, overwrite=True)
        assert f"knn.method=auto takes {chosen}: because" in capsys.readouterr().err
        assert knn_fingerprint(config, FEATURES)["knn.method"] == chosen
        assert open_table(config_at(work, f"knn.method={chosen}"), FEATURES).shards
    monkeypatch.setattr(module, "choose", no_work)
    (knn_dir(config) / "manifest.json").unlink()
    build_table(config, FEATURES)  # goes on as it began


def test_a_full_disk_is_named_and_what_is_finished_is_kept(work, monkeypatch):
    build_table(config_at(work), FEATURES)
    written = contents(work / "features" / "knn")
    shutil.rmtree(work / "features" / "knn")
    fsync, synced = rundir._fsync, []

    def full(path: Path) -> None:
        synced.append(path)
        if len(synced) > 12:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(path)

    alone(monkeypatch, 2)
    monkeypatch.setattr(rundir, "_fsync", full)
    with pytest.raises(UserError, match=r"cannot write to .*knn: the disk or the quota is full.*goes on from what is"):
        build_table(config_at(work), FEATURES)
    assert not list((work / "features").rglob("*.tmp")) and list((work / "features" / "knn").rglob("*.npy"))
    monkeypatch.setattr(rundir, "_fsync", fsync)
    build_table(config_at(work), FEATURES)
    assert contents(work / "features" / "knn") == written
