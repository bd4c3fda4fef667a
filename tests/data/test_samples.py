from __future__ import annotations

import gc
import io
import os
import pickle
import tarfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
import webdataset as wds
from PIL import Image

from stego_dist.data.manifest import ShardSet
from stego_dist.data.pack import build
from stego_dist.data.plan import BuildOptions
from stego_dist.data.samples import ShardSamples
from stego_dist.data.storage import local
from stego_dist.data.transforms import label_view, to_training_view
from stego_dist.errors import UserError


@pytest.fixture
def shard_set(made, card, tmp_path) -> ShardSet:
    root = made(9)
    made(3, split="val", labels=False)
    return build(card, root, tmp_path / "out", BuildOptions(crops="five", min_shards=4))


def open_files() -> int:
    gc.collect()
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208


def test_offsets_are_those_of_tarfile_and_webdataset(shard_set):
    samples = ShardSamples(shard_set, "train")
    urls = [str(shard_set.tar(shard)) for shard in samples.split.shards]
    read = list(wds.WebDataset(urls, shardshuffle=False))
    assert len(samples) == len(read) == 45
    for i, sample in enumerate(read):
        assert sample["__key__"] == samples.key(i)
        assert sample["jpg"] == samples.image_bytes(i)
        assert sample["label.png"] == samples.label_bytes(i)
    i = 0
    for shard in samples.split.shards:
        with tarfile.open(shard_set.tar(shard)) as tar, np.load(shard_set.index(shard)) as index:
            jpegs = [m for m in tar if m.name.endswith(".jpg")]
            assert [[m.offset_data, m.size] for m in jpegs] == index["image"].tolist()
            i += len(jpegs)
    assert i == len(samples)


def test_numbers_and_names(shard_set):
    samples = ShardSamples(shard_set, "train")
    assert samples.shard_starts.tolist() == [0, 15, 25, 35, 45]
    assert samples.source.dtype == np.int64
    assert samples.source[:16].tolist() == [0] * 5 + [4] * 5 + [8] * 5 + [1]
    assert samples.crop[:7].tolist() == [0, 1, 2, 3, 4, 0, 1]
    assert samples.key(6) == "000000004_1" and samples.name(6) == "img 04 é"
    assert [samples.name(i) for i in (44, 0, 20)] == ["img 07 é", "img 00 é", "img 05 é"]
    for i in (45, -1):
        with pytest.raises(IndexError):
            samples.image_bytes(i)


def test_views_are_the_transforms_of_the_decoded_bytes(shard_set):
    samples = ShardSamples(shard_set, "train")
    for i in (0, 17, 44):
        image, label = samples.view(i, 12, "bilinear")
        decoded = Image.open(io.BytesIO(samples.image_bytes(i)))
        assert torch.equal(image, to_training_view(decoded, 12, "bilinear"))
        ids = np.asarray(Image.open(io.BytesIO(samples.label_bytes(i))))
        assert label is not None and torch.equal(label, label_view(ids, 12))


def test_without_labels(shard_set):
    samples = ShardSamples(shard_set, "val")
    assert samples.label_bytes(0) is None and samples.view(0, 8, "nearest")[1] is None


def test_open_files_are_bounded_and_closed(shard_set, monkeypatch):
    monkeypatch.setattr(local, "MAX_OPEN_FILES", 2)
    before = open_files()
    samples = ShardSamples(ShardSet.open(shard_set.root), "train")
    assert open_files() == before
    expected = [samples.image_bytes(i) for i in range(45)]
    assert open_files() == before + 2
    with ThreadPoolExecutor(8) as pool:
        order = np.random.default_rng(0).permutation(450) % 45
        for i, data in zip(order, pool.map(samples.image_bytes, order)):
            assert data == expected[i]
    del samples
    assert open_files() == before


def test_a_fork_and_a_copy_read_the_same(shard_set):
    samples = ShardSamples(shard_set, "train")
    expected = samples.image_bytes(30)
    copy = pickle.loads(pickle.dumps(samples))
    assert copy.image_bytes(30) == expected and len(pickle.dumps(samples)) < 20_000
    lock = shard_set.storage._files()._lock
    lock.acquire()  # as if another thread were opening a file at the moment of the fork
    if (child := os.fork()) == 0:
        try:
            os._exit(0 if samples.image_bytes(30) == expected else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    lock.release()
    assert samples.image_bytes(30) == expected


def test_damage_names_shard_and_sample(shard_set):
    samples = ShardSamples(shard_set, "train")
    tar = shard_set.tar(samples.split.shards[3])
    start = int(samples._spans[".jpg"][44, 0])
    data = bytearray(tar.read_bytes())
    data[start : start + 4] = b"oops"
    tar.write_bytes(data)
    with pytest.raises(UserError, match=r"train-00003\.tar: sample 000000007_4\.jpg: not a readable image"):
        samples.view(44, 8, "nearest")
    os.truncate(tar, start + 10)
    with pytest.raises(UserError, match=r"train-00003\.tar: sample 000000007_4\.jpg: the file ends after 10 of"):
        samples.image_bytes(44)
    fresh = ShardSamples(ShardSet.open(shard_set.root), "train")
    tar.unlink()
    with pytest.raises(UserError, match=r"train-00003\.tar: sample .*No such file.*shards verify"):
        fresh.image_bytes(44)
    index = shard_set.index(samples.split.shards[1])
    os.truncate(index, 100)
    with pytest.raises(UserError, match=r"train-00001\.index\.npz"):
        ShardSamples(shard_set, "train")
    index.write_bytes(shard_set.index(samples.split.shards[0]).read_bytes())
    with pytest.raises(UserError, match=r"train-00001\.index\.npz does not hold 10 samples"):
        ShardSamples(shard_set, "train")


def test_unknown_split(shard_set):
    with pytest.raises(UserError, match="'test'; it has train, val"):
        ShardSamples(shard_set, "test")
