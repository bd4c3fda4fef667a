"""The feature store: what is written is read, across shards and in blocks; the rest is refused by name."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from stego_dist import shardarrays
from stego_dist.errors import StaleInputError, UserError
from stego_dist.features.store import (
    FeatureStore,
    ShardFeatures,
    is_done,
    refuse_others,
    write_manifest,
    write_shard,
    write_shard_in_batches,
)

SIZES = {"train-00000": 5, "train-00001": 1, "train-00002": 7, "train-00003": 4}
N = sum(SIZES.values())
FINGERPRINT = {"data.resolution": 32, "backbone.name": "vit", "shards": "abc"}
REMEDY = "Make it again with --overwrite."
DIM, GRID, SIDE = 6, 2, 8


@pytest.fixture
def arrays() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "descriptors": rng.standard_normal((N, DIM), dtype=np.float32),
        "source": rng.integers(0, 9, N),
        "bank": rng.standard_normal((N, DIM, GRID, GRID)).astype(np.float16),
        "labels": rng.integers(0, 256, (N, SIDE, SIDE)).astype(np.uint8),
    }


def write(root, arrays, kinds=("bank", "labels"), fingerprint=FINGERPRINT):
    first = 0
    for shard, size in SIZES.items():
        mine = {k: a[first : first + size] for k, a in arrays.items()}
        optional = {k: mine[k] if k in kinds else None for k in ("bank", "labels")}
        write_shard(root, shard, ShardFeatures(mine["descriptors"], mine["source"], **optional), fingerprint)
        first += size
    write_manifest(root, list(SIZES), fingerprint, dim=DIM)


def open_store(root, **changes) -> FeatureStore:
    return FeatureStore(root, {**FINGERPRINT, **changes}, REMEDY)


@pytest.fixture
def root(tmp_path, arrays):
    write(tmp_path / "store", arrays)
    return tmp_path / "store"


def test_round_trip_of_rows_across_shards(root, arrays):
    store = open_store(root)
    assert len(store) == N and store.starts.tolist() == [0, 5, 6, 13, 17] and store.has_bank and store.has_labels
    np.testing.assert_array_equal(store.sources, arrays["source"])
    rng = np.random.default_rng(1)
    for ids in (np.arange(N), np.array([16]), rng.integers(0, N, 40), np.array([0, 4, 5, 6, 12, 13, 16, 0])):
        for kind in ("descriptors", "bank", "labels"):
            rows = store.rows(kind, ids)
            assert rows.dtype == arrays[kind].dtype
            np.testing.assert_array_equal(rows, arrays[kind][ids])


@pytest.mark.parametrize("size", [1, 2, 5, 6, 7, 13, N - 1, N, 1000])
def test_blocks_in_order_are_the_descriptors(root, arrays, size):
    store = open_store(root)
    for first in range(0, N, size):
        rows = store.descriptors(first, min(first + size, N))
        np.testing.assert_array_equal(rows, arrays["descriptors"][first : first + size])


def test_descriptors_alone(tmp_path, arrays):
    write(tmp_path / "store", arrays, kinds=())
    store = open_store(tmp_path / "store")
    assert not store.has_bank and not store.has_labels
    np.testing.assert_array_equal(store.rows("descriptors", np.arange(N)), arrays["descriptors"])
    with pytest.raises(UserError, match=r"damaged: .*train-00000\.bank\.npy.*--overwrite"):
        store.rows("bank", np.array([0]))


def test_a_bank_without_labels(tmp_path, arrays):
    write(tmp_path / "store", arrays, kinds=("bank",))
    store = open_store(tmp_path / "store")
    assert store.has_bank and not store.has_labels


def test_stale_inputs_are_named_each(root):
    with pytest.raises(StaleInputError) as error:
        open_store(root, **{"data.resolution": 64, "backbone.feature": "keys", "backbone.name": "resnet"})
    text = str(error.value)
    assert str(root) in text and text.endswith(REMEDY)
    assert "  data.resolution: made with 32, now 64\n" in text
    assert "  backbone.feature: made with None, now 'keys'\n" in text
    assert "  backbone.name: made with 'vit', now 'resnet'\n" in text
    assert "shards:" not in text


@pytest.mark.parametrize("kind", ["descriptors", "source", "bank"])
@pytest.mark.parametrize("how", ["missing", "cut", "rubbish"])
def test_missing_and_damaged_arrays_name_the_remedy(root, kind, how):
    path = root / f"train-00002.{kind}.npy"
    if how == "missing":
        path.unlink()
    elif how == "cut":
        os.truncate(path, path.stat().st_size - 3)
    else:
        path.write_bytes(b"no numpy file")
    with pytest.raises(UserError, match=r"damaged: .*--overwrite"):
        store = open_store(root)
        store.rows(kind, np.array([0]))


def test_an_unfinished_store_is_refused(root):
    (root / "manifest.json").unlink()
    with pytest.raises(
        UserError, match=r"the feature store not found: .*manifest\.json does not exist\. Make it again"
    ):
        open_store(root)


def test_another_format_is_refused(root):
    manifest = json.loads((root / "manifest.json").read_text())
    (root / "manifest.json").write_text(json.dumps({**manifest, "format": "stego_dist.features/9"}))
    with pytest.raises(UserError, match=r"'stego_dist\.features/9', expected 'stego_dist\.features/2'\. Make it again"):
        open_store(root)


def test_is_done(tmp_path, arrays):
    root = tmp_path / "store"

    def done(bank: bool, **changes: object) -> bool:
        return is_done(root, "train-00001", {**FINGERPRINT, **changes}, bank, REMEDY)

    assert not done(bank=False) and not done(bank=True)
    write(root, arrays, kinds=())
    assert done(bank=False) and not done(bank=True)
    write(root, arrays)
    assert done(bank=False) and done(bank=True)
    for bank in (False, True):
        with pytest.raises(StaleInputError, match=r"(?s)shard train-00001.*data\.resolution.*Make it again"):
            done(bank, **{"data.resolution": 64})
    (root / "parts" / "train-00001.json").write_text("{")
    with pytest.raises(UserError, match=r"done-marker of shard train-00001 is damaged.*Make it again"):
        done(bank=False)


def test_batches_give_the_bytes_of_the_whole(tmp_path, root, arrays):
    first = 6
    shard = {kind: array[first : first + 7] for kind, array in arrays.items()}
    batches = (ShardFeatures(**{kind: array[i : i + 3] for kind, array in shard.items()}) for i in range(0, 7, 3))
    write_shard_in_batches(tmp_path / "other", "train-00002", 7, batches, FINGERPRINT)
    for kind, array in shard.items():
        np.save(tmp_path / "saved.npy", array)
        for folder in (root, tmp_path / "other"):
            assert (folder / f"train-00002.{kind}.npy").read_bytes() == (tmp_path / "saved.npy").read_bytes()
    assert json.loads((tmp_path / "other/parts/train-00002.json").read_text())["rows"] == 7


@pytest.mark.parametrize("kind", ["descriptors", "bank"])
@pytest.mark.parametrize("how", ["missing", "cut"])
def test_a_shard_whose_array_is_not_whole_is_not_done(root, kind, how, capfd):
    path = root / f"train-00001.{kind}.npy"
    if how == "missing":
        path.unlink()
    else:
        os.truncate(path, path.stat().st_size - 1)
    assert not is_done(root, "train-00001", FINGERPRINT, False, REMEDY)
    assert path.name in capfd.readouterr().err
    assert is_done(root, "train-00002", FINGERPRINT, True, REMEDY)


def test_stores_are_told_from_other_folders(root, tmp_path):
    (root / "knn").mkdir()
    refuse_others(root)
    refuse_others(tmp_path / "nowhere")
    unfinished = tmp_path / "unfinished"
    (unfinished / "parts").mkdir(parents=True)
    (unfinished / "train-00000.source.npy").touch()
    refuse_others(unfinished)
    for file in ("photo.jpg", "parts/../array.npy", "manifest.json"):
        other = tmp_path / file.replace("/", "_")
        (other / "parts").mkdir(parents=True)
        (other / file).write_text('{"format": "stego_dist.shards/1"}')
        if file.endswith("npy"):
            (other / "parts").rmdir()  # arrays of somebody's
        with pytest.raises(UserError, match="is not a feature store .*by hand"):
            refuse_others(other)


def test_the_marker_comes_last(tmp_path, arrays):
    """A shard whose arrays could not all be written does not count as done, and leaves nothing behind."""

    def failing():
        yield ShardFeatures(**{kind: array[:2] for kind, array in arrays.items()})
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_shard_in_batches(tmp_path / "store", "train-00000", 5, failing(), FINGERPRINT)
    assert not is_done(tmp_path / "store", "train-00000", FINGERPRINT, False, REMEDY)
    assert not [path for path in (tmp_path / "store").rglob("*") if path.is_file()]


def test_few_files_are_open_however_many_shards_there_are(tmp_path, monkeypatch):
    monkeypatch.setattr(shardarrays, "MAPPED", 3)
    names = [f"train-{i:05d}" for i in range(40)]
    for i, name in enumerate(names):
        one = ShardFeatures(np.full((2, 4), i, np.float16), np.array([i, i]), None, None)
        write_shard(tmp_path, name, one, FINGERPRINT)
    write_manifest(tmp_path, names, FINGERPRINT)
    before = len(list(Path("/proc/self/fd").iterdir()))
    store = FeatureStore(tmp_path, FINGERPRINT, REMEDY)
    ids = np.random.default_rng(0).permutation(80)
    np.testing.assert_array_equal(store.rows("descriptors", ids)[:, 0], ids // 2)
    np.testing.assert_array_equal(store.sources, np.arange(80) // 2)
    assert len(list(Path("/proc/self/fd").iterdir())) <= before + 4
