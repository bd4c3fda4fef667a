"""The neighbour table on disk."""

from __future__ import annotations

import json
import os
import pickle

import numpy as np
import pytest

from stego_dist.errors import StaleInputError, UserError
from stego_dist.knn.ranking import Neighbours
from stego_dist.knn.table import KnnTable, is_done, write_manifest, write_part

SIZES = {"train-00000": 3, "train-00001": 1, "train-00002": 6}
FINGERPRINT = {"shards": "abc", "knn.k": 4, "knn.exclude_same_image": False}
REMEDY = "Build it again."


@pytest.fixture
def neighbours() -> Neighbours:
    rng = np.random.default_rng(0)
    return Neighbours(rng.integers(-1, 10, (10, 4)), rng.random((10, 4), dtype=np.float32))


@pytest.fixture
def root(tmp_path, neighbours):
    first = 0
    for shard, size in SIZES.items():
        part = slice(first, first + size)
        write_part(
            tmp_path / "knn",
            shard,
            Neighbours(neighbours.ids[part], neighbours.similarities[part]),
            FINGERPRINT,
        )
        first += size
    write_manifest(tmp_path / "knn", list(SIZES), FINGERPRINT, exact=True)
    return tmp_path / "knn"


def test_round_trip_across_shards(root, neighbours):
    table = KnnTable(root, FINGERPRINT, REMEDY)
    assert len(table) == 10 and table.shards == list(SIZES)
    for ids in (np.arange(10), np.array([9, 2, 3, 4, 3]), np.array([0])):
        np.testing.assert_array_equal(table.rows(ids), neighbours.ids[ids])
        np.testing.assert_array_equal(table.similarities(ids), neighbours.similarities[ids])
    assert table.rows(np.array([1])).dtype == np.int64 and table.similarities(np.array([1])).dtype == np.float32


def test_stale_inputs_are_named(root):
    with pytest.raises(StaleInputError) as error:
        KnnTable(root, {**FINGERPRINT, "knn.k": 9, "shards": "xyz"}, REMEDY)
    text = str(error.value)
    assert "knn.k: made with 4, now 9" in text and "shards: made with 'abc', now 'xyz'" in text
    assert "exclude" not in text and str(root) in text and text.endswith(REMEDY)


def test_missing_unfinished_and_damaged_tables(root, tmp_path):
    with pytest.raises(UserError, match=r"the KNN table not found: .*Build it again"):
        KnnTable(tmp_path / "nowhere", FINGERPRINT, REMEDY)
    manifest = json.loads((root / "manifest.json").read_text())
    (root / "manifest.json").write_text(json.dumps({**manifest, "format": "other/1"}))
    with pytest.raises(UserError, match=r"'other/1', expected 'stego_dist\.knn/2'\. Build it again"):
        KnnTable(root, FINGERPRINT, REMEDY)
    (root / "manifest.json").write_text(json.dumps(manifest))
    for kind in ("ids", "similarities"):
        path = root / f"train-00002.{kind}.npy"
        whole = path.read_bytes()
        os.truncate(path, len(whole) - 8)
        with pytest.raises(UserError, match=r"damaged: .*Build it again"):
            KnnTable(root, FINGERPRINT, REMEDY)
        path.unlink()
        with pytest.raises(UserError, match=rf"damaged: .*train-00002\.{kind}\.npy.*Build it again"):
            KnnTable(root, FINGERPRINT, REMEDY)
        path.write_bytes(whole)
    assert len(KnnTable(root, FINGERPRINT, REMEDY)) == 10
    (root / "manifest.json").unlink()  # not declared complete
    with pytest.raises(UserError, match="not found"):
        KnnTable(root, FINGERPRINT, REMEDY)


def test_is_done(root):
    assert is_done(root, "train-00001", FINGERPRINT, REMEDY) and not is_done(root, "train-00009", FINGERPRINT, REMEDY)
    changed = {**FINGERPRINT, "knn.exclude_same_image": True}
    with pytest.raises(StaleInputError, match=r"(?s)train-00001.*knn\.exclude_same_image: made with False, now True"):
        is_done(root, "train-00001", changed, REMEDY)
    (root / "parts" / "train-00001.json").write_text("")
    with pytest.raises(UserError, match="done-marker of shard train-00001 is damaged"):
        is_done(root, "train-00001", FINGERPRINT, REMEDY)


def test_a_reader_travels_without_what_it_has_mapped(root, neighbours):
    table = KnnTable(root, FINGERPRINT, REMEDY)
    small = len(pickle.dumps(table))
    table.rows(np.arange(10))
    assert len(pickle.dumps(table)) == small
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(table)).rows(np.arange(10)), neighbours.ids)
