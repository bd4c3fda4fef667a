"""Features: right numbers, the same files whatever the workers, nothing done twice.

What needs a cluster to be shown runs on a real one; the rest calls the same shard functions here.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stego_dist import rundir
from stego_dist.config import Config
from stego_dist.data.manifest import ShardSet
from stego_dist.data.samples import ShardSamples
from stego_dist.engine.inputs import (
    features_fingerprint,
    make_backbone,
    open_store,
)
from stego_dist.errors import StaleInputError, UserError
from stego_dist.jobs import embed as embed_module
from stego_dist.jobs.cluster import ray_cluster
from stego_dist.jobs.embed import embed
from tests.tiny import build_shards, config_at

IMAGES = 12


def here(make: Callable[[], Callable[[Any], Any]], tasks: Sequence[Any], **options: object) -> Iterator[Any]:
    """What Ray workers do, without them."""
    return map(make(), tasks)


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
        set_runner(monkeypatch, here)


def set_runner(monkeypatch, runner) -> None:
    monkeypatch.setattr("stego_dist.jobs.embed.run_on_workers", runner)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """Shards, and the store with bank."""
    root = tmp_path_factory.mktemp("made")
    build_shards(root, train=IMAGES, val=1)
    with pytest.MonkeyPatch.context() as monkeypatch:
        set_runner(monkeypatch, here)
        embed(config_at(root), bank=True)
    return root


@pytest.fixture
def work(made, tmp_path) -> Path:
    """A copy of it that a test may change."""
    return Path(shutil.copytree(made, tmp_path / "work"))


def state(folder: Path) -> dict[str, tuple[str, int, int]]:
    """Content, inode and time of every file."""
    stats = ((path, path.stat()) for path in sorted(folder.rglob("*")) if path.is_file())
    return {
        str(path.relative_to(folder)): (
            hashlib.sha256(path.read_bytes()).hexdigest(),
            stat.st_ino,
            stat.st_mtime_ns,
        )
        for path, stat in stats
    }


def contents(folder: Path) -> dict[str, str]:
    return {name: sha for name, (sha, _, _) in state(folder).items()}


def fingerprint_of(config: Config) -> dict[str, object]:
    return features_fingerprint(config, ShardSet.open(config.data.shards), make_backbone(config))


def no_work(*arguments: object, **options: object) -> None:
    pytest.fail("work was done again")


def test_the_store_holds_what_the_backbone_gives(made):
    config = config_at(made)
    store = open_store(config, fingerprint_of(config))
    samples = ShardSamples(ShardSet.open(config.data.shards), "train")
    backbone = make_backbone(config)
    assert len(store) == len(samples) == IMAGES and len(store.shards) == 5
    np.testing.assert_array_equal(store.sources, samples.source)
    images, labels = zip(*(samples.view(i, 32, "bilinear") for i in range(IMAGES)))
    feats = backbone(torch.stack(images)).numpy()
    ids = np.arange(IMAGES)
    np.testing.assert_array_equal(store.rows("labels", ids), torch.stack(labels).numpy())
    bank = store.rows("bank", ids)
    assert bank.shape == (IMAGES, 24, 4, 4) and bank.dtype == np.float16
    np.testing.assert_allclose(bank, feats, rtol=2e-3, atol=1e-3)
    mean = feats.astype(np.float64).mean((2, 3))
    expected = mean / np.linalg.norm(mean, axis=1, keepdims=True)
    found = store.rows("descriptors", ids)
    assert found.dtype == np.float16
    np.testing.assert_allclose(found, expected, rtol=2**-11, atol=1e-6)
    rounded = np.rint(found.astype(np.float64) * 2**24) / 2**24
    np.testing.assert_array_equal(found, rounded)


@pytest.mark.ray
def test_two_workers_write_what_one_process_writes(made, work):
    shutil.rmtree(work / "features")
    fingerprint = embed(config_at(work, "features.workers=2"), bank=True)
    assert contents(work / "features") == contents(made / "features")
    assert fingerprint == fingerprint_of(config_at(made))
    assert not list((work / "features").rglob("*.tmp"))


def test_what_is_done_is_not_done_again(work, monkeypatch):
    config = config_at(work)
    before = state(work / "features")
    # as after a kill: one shard without its marker and with a file less, and no manifest
    (work / "features" / "parts" / "train-00002.json").unlink()
    (work / "features" / "train-00002.bank.npy").unlink()
    (work / "features" / "manifest.json").unlink()
    embed(config, bank=True)
    after = state(work / "features")
    assert {name: sha for name, (sha, _, _) in after.items()} == {name: sha for name, (sha, _, _) in before.items()}
    rewritten = {name for name in after if after[name] != before[name]}
    assert rewritten == {
        "manifest.json",
        "parts/train-00002.json",
        *(f"train-00002.{kind}.npy" for kind in ("bank", "descriptors", "labels", "source")),
    }
    set_runner(monkeypatch, no_work)
    embed(config, bank=True)
    embed(config, bank=False)


def test_a_store_without_bank_is_completed(work, made):
    shutil.rmtree(work / "features")
    config = config_at(work)
    embed(config, bank=False)
    assert not open_store(config, fingerprint_of(config)).has_bank
    without = contents(work / "features")
    assert {n: s for n, s in without.items() if n.endswith("descriptors.npy")} == {
        n: s for n, s in contents(made / "features").items() if n.endswith("descriptors.npy")
    }
    embed(config, bank=True)
    assert contents(work / "features") == contents(made / "features")


@pytest.mark.parametrize(
    ("override", "field", "then", "now"),
    [
        ("data.resolution=40", "data.resolution", "32", "40"),
        ("backbone.feature=keys", "backbone.feature", "'feat'", "'keys'"),
        ("backbone.options.num_heads=4", "backbone.options", "2", "4"),  # the weights are the same
    ],
)
def test_a_changed_setting_is_refused_by_name(work, override, field, then, now):
    before = state(work / "features")
    config = config_at(work, override)
    for attempt in (lambda: embed(config, bank=True), lambda: open_store(config, fingerprint_of(config))):
        with pytest.raises(StaleInputError, match=rf"(?s)  {field}: made with .*{then}.*, now .*{now}.*--overwrite"):
            attempt()
    assert state(work / "features") == before


def test_overwrite_keeps_what_is_up_to_date(work, monkeypatch):
    before = state(work / "features")
    set_runner(monkeypatch, no_work)
    embed(config_at(work), bank=True, overwrite=True)
    after = state(work / "features")
    assert {n: v for n, v in after.items() if n != "manifest.json"} == {
        n: v for n, v in before.items() if n != "manifest.json"
    }


def test_overwrite_replaces_what_was_made_from_something_else(work):
    config = config_at(work, "data.resolution=40")
    embed(config, bank=True, overwrite=True)
    assert open_store(config, fingerprint_of(config)).rows("bank", np.arange(IMAGES)).shape == (
        IMAGES,
        24,
        5,
        5,
    )


@pytest.mark.ray
def test_a_corrupt_sample_is_named_with_its_shard(work):
    config = config_at(work, "features.workers=2")
    shutil.rmtree(work / "features")
    samples = ShardSamples(ShardSet.open(config.data.shards), "train")
    i = int(samples.shard_starts[3])
    tar = samples.shard_set.tar(samples.split.shards[3])
    offset, size = (int(v) for v in samples._spans[".jpg"][i])
    data = bytearray(tar.read_bytes())
    data[offset : offset + size] = bytes(size)
    tar.write_bytes(data)
    with pytest.raises(UserError) as error:
        embed(config, bank=False)
    text = str(error.value)
    assert f"{tar}: sample {samples.key(i)}.jpg" in text and "train-00003" in text and "Traceback" not in text
    assert not (work / "features" / "manifest.json").exists()
    assert not (work / "features" / "parts" / "train-00003.json").exists()


def test_a_bank_that_does_not_fit_is_refused_before_it_is_begun(work, monkeypatch):
    shutil.rmtree(work / "features")
    config = config_at(work)
    each = 24 * 4 * 4 * 2 + 32 * 32 + 24 * 2 + 8
    wanted = IMAGES * each + 2 * 24 * 5 * 5 * 2 + 40 * 40 + 8  # of training, and of the image that is evaluated
    wanted += IMAGES * (2 * 24 * 4 * 4 * 2 + 32 * 32 + 8)  # of the two views that the label-free score looks at
    real = os.statvfs(work)

    def free(size: int) -> None:
        fake = os.statvfs_result((1, 1, real.f_blocks, size, size, *tuple(real)[5:10]))
        monkeypatch.setattr(embed_module.os, "statvfs", lambda path: fake)

    free(wanted - 1)
    with pytest.raises(
        UserError, match=r"features\.dir=.*descriptors and bank need .* are free; .*train\.features=online"
    ):
        embed(config, bank=True)
    assert not (work / "features").exists()
    free(wanted)
    embed(config, bank=True)
    free(0)  # nothing is left to write
    embed(config, bank=True)
    (work / "features" / "parts" / "train-00002.json").unlink()  # its arrays make room for the new ones
    first, last = ShardSamples(ShardSet.open(config.data.shards), "train").shard_starts[2:4]
    free(each * (last - first) - 1)
    embed(config, bank=True)


def test_descriptors_alone_read_no_labels(work, monkeypatch):
    shutil.rmtree(work / "features")
    monkeypatch.setattr(ShardSamples, "label_bytes", lambda self, i: pytest.fail("a label was read"))
    embed(config_at(work), bank=False)


def test_descriptors_in_float32(work, made):
    config = config_at(work, "features.descriptors=float32")
    with pytest.raises(StaleInputError, match=r"features\.descriptors: made with 'float16', now 'float32'"):
        embed(config, bank=True)
    embed(config, bank=False, overwrite=True)
    found = open_store(config, fingerprint_of(config)).rows("descriptors", np.arange(IMAGES))
    half = open_store(config_at(made), fingerprint_of(config_at(made))).rows("descriptors", np.arange(IMAGES))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, half, rtol=2**-11, atol=2**-24)
    np.testing.assert_array_equal(found.astype(np.float64) * 2**24 % 1, 0)


@pytest.mark.parametrize("how", ["truncated", "missing"])
def test_an_array_that_is_not_whole_is_computed_again(work, capfd, how):
    before = contents(work / "features")
    array = work / "features" / "train-00003.bank.npy"
    if how == "truncated":
        os.truncate(array, array.stat().st_size - 1)
    else:
        array.unlink()
    embed(config_at(work), bank=True)
    assert "train-00003.bank.npy has " in capfd.readouterr().err
    assert contents(work / "features") == before


def test_leftovers_of_a_killed_writer_are_removed(work):
    before = contents(work / "features")
    (work / "features" / ".train-00001.bank.npy.0123abcd.tmp").write_bytes(b"half")
    (work / "features" / "parts" / ".train-00001.json.0123abcd.tmp").write_bytes(b"half")
    embed(config_at(work), bank=True)
    assert contents(work / "features") == before


def test_a_full_disk_is_named_and_what_is_finished_is_kept(work, made, monkeypatch):
    shutil.rmtree(work / "features")
    fsync, synced = rundir._fsync, []

    def full(path: Path) -> None:
        synced.append(path)
        if len(synced) > 20:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(path)

    monkeypatch.setattr(rundir, "_fsync", full)
    with pytest.raises(
        UserError, match=r"cannot write to .*features: the disk or the quota is full.*goes on from there"
    ):
        embed(config_at(work), bank=True)
    finished = state(work / "features")
    assert list((work / "features" / "parts").glob("*.json")) and not list((work / "features").rglob("*.tmp"))
    monkeypatch.setattr(rundir, "_fsync", fsync)
    embed(config_at(work), bank=True)
    after = state(work / "features")
    assert contents(work / "features") == contents(made / "features")
    assert all(after[name] == finished[name] for name in finished if name.startswith("train-00000"))


def test_overwrite_does_not_delete_what_is_no_feature_store(work):
    config = config_at(work, f"features.dir={work / 'shards'}")
    before = state(work / "shards")
    with pytest.raises(UserError, match=r"features\.dir=.*shards is not a feature store.*--overwrite does not delete"):
        embed(config, bank=False, overwrite=True)
    assert state(work / "shards") == before


def test_compiled_batches_are_of_one_size_and_give_the_same(work, monkeypatch):
    config = config_at(work, "features.compile=true", "features.batch_size=2", "features.descriptors=float32")
    sizes = []

    def compiled(backbone, **options):
        assert not options["dynamic"]
        return lambda images: sizes.append(len(images)) or backbone(images)

    monkeypatch.setattr(torch, "compile", compiled)
    shutil.rmtree(work / "features")
    embed(config, bank=False)
    assert set(sizes) == {2} and len(sizes) > IMAGES // 2  # some were filled up
    found = open_store(config, fingerprint_of(config)).rows("descriptors", np.arange(IMAGES))
    plain = config_at(work, "features.descriptors=float32")
    shutil.rmtree(work / "features")
    embed(plain, bank=False)
    expected = open_store(plain, fingerprint_of(plain)).rows("descriptors", np.arange(IMAGES))
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_a_backbone_that_does_not_compile_is_named(work, monkeypatch):
    def broken(images):
        raise RuntimeError("no C++ compiler\nand a long tail")

    monkeypatch.setattr(torch, "compile", lambda backbone, **options: broken)
    with pytest.raises(
        UserError, match=r"^features\.compile: .*vit_tiny.* \(RuntimeError: no C\+\+ compiler\).*=false$"
    ):
        shutil.rmtree(work / "features")
        embed(config_at(work, "features.compile=true"), bank=False)
