"""The local cache: right bytes whatever happens to it, within its bound, from several processes at once."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from stego_dist.config import StorageConfig
from stego_dist.data.manifest import ShardSet
from stego_dist.data.pack import build
from stego_dist.data.plan import BuildOptions
from stego_dist.data.samples import ShardSamples
from stego_dist.data.storage import LocalStorage, cache, open_storage
from stego_dist.data.storage.cache import BlockCache, CachedStorage
from stego_dist.errors import UserError
from tests.servers import FaultyServer

BLOCK = 1000


class Counting(LocalStorage):
    """A folder that counts what is read."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.ranges: list[tuple[int, int]] = []

    def read_range(self, name: str, offset: int, size: int) -> bytes:
        self.ranges.append((offset, size))
        return super().read_range(name, offset, size)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(cache, "BLOCK", BLOCK)


@pytest.fixture
def data(tmp_path) -> bytes:
    data = np.random.default_rng(0).bytes(10_400)
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "x.tar").write_bytes(data)
    return data


def cached(tmp_path: Path, data: bytes, limit: int = 10**6, sha256: str = "") -> CachedStorage:
    sha256 = sha256 or hashlib.sha256(data).hexdigest()
    near = BlockCache(tmp_path / "near", limit)
    return CachedStorage(Counting(tmp_path / "far"), near, {"x.tar": (sha256, len(data))})


def blocks(tmp_path: Path) -> list[Path]:
    return list((tmp_path / "near").glob("*/*"))


def held(tmp_path: Path) -> int:
    return sum(path.stat().st_size for path in blocks(tmp_path))


def test_every_read_is_right_and_made_once(tmp_path, data):
    storage = cached(tmp_path, data)
    rng = np.random.default_rng(1)
    for _ in range(200):
        offset, size = int(rng.integers(0, 10_600)), int(rng.integers(0, 3000))
        assert storage.read_range("x.tar", offset, size) == data[offset : offset + size]
    for offset, end in [(0, None), (999, 4001), (10_399, None), (10_400, None), (5, 5)]:
        assert storage.open("x.tar", offset, end).read() == data[offset:end]
    assert storage.read("x.tar") == data
    fetched = [range(offset // BLOCK, -(-(offset + size) // BLOCK)) for offset, size in storage.remote.ranges]
    assert sorted(block for some in fetched for block in some) == list(range(11))  # every block once
    again = cached(tmp_path, data)
    assert again.read("x.tar") == data and again.remote.ranges == []


def test_missing_blocks_in_a_row_come_with_one_request(tmp_path, data):
    storage = cached(tmp_path, data)
    storage.read_range("x.tar", 4500, 10)
    assert storage.read_range("x.tar", 0, 10_400) == data
    assert storage.remote.ranges == [(4000, 1000), (0, 4000), (5000, 5400)]


def test_the_bound_holds_and_the_least_recently_used_goes(tmp_path, data):
    limit = 6 * (BLOCK + 16)
    storage = cached(tmp_path, data, limit)
    for number in (0, 1, 2, 3, 4, 5):
        storage.read_range("x.tar", number * BLOCK, 1)
        for path in blocks(tmp_path):  # file systems may have coarse clocks
            os.utime(path, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns - 10**9))
    storage.read_range("x.tar", 0, 1)  # used again
    assert held(tmp_path) == limit
    storage.read_range("x.tar", 6 * BLOCK, 1)
    assert held(tmp_path) <= limit
    storage.remote.ranges.clear()
    storage.read_range("x.tar", 0, 1)
    storage.read_range("x.tar", 6 * BLOCK, 1)
    assert storage.remote.ranges == []
    storage.read_range("x.tar", 1 * BLOCK, 1)
    assert storage.remote.ranges == [(1000, 1000)]


def test_a_bound_below_a_block_keeps_nothing(tmp_path, data):
    storage = cached(tmp_path, data, 500)
    assert storage.read("x.tar") == data == storage.read("x.tar") and blocks(tmp_path) == []


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "gone"])
def test_damaged_blocks_are_fetched_again(tmp_path, data, damage):
    storage = cached(tmp_path, data)
    storage.read("x.tar")
    for path in blocks(tmp_path):
        content = bytearray(path.read_bytes())
        if damage == "gone":
            path.unlink()
            continue
        content[len(content) // 2] ^= 1
        path.write_bytes({"cut": bytes(content)[:400], "flip": bytes(content), "empty": b""}[damage])
    storage.remote.ranges.clear()
    assert storage.read("x.tar") == data and len(storage.remote.ranges) == 1
    storage.remote.ranges.clear()
    assert storage.read("x.tar") == data and storage.remote.ranges == []


def test_a_file_of_another_checksum_shares_nothing(tmp_path, data):
    cached(tmp_path, data).read("x.tar")
    new = data[::-1]
    (tmp_path / "far" / "x.tar").write_bytes(new)
    assert cached(tmp_path, new).read("x.tar") == new
    evil = cached(tmp_path, new, sha256="../../../outside")
    assert evil.read("x.tar") == new
    assert {path.name for path in tmp_path.iterdir()} == {"far", "near"}


def test_a_file_that_is_cut_afar_is_not_kept(tmp_path, data):
    os.truncate(tmp_path / "far" / "x.tar", 4300)
    storage = cached(tmp_path, data)
    assert storage.read_range("x.tar", 4000, 1000) == data[4000:4300]
    (tmp_path / "far" / "x.tar").write_bytes(data)
    assert cached(tmp_path, data).read("x.tar") == data


def test_what_a_crash_left_is_cleaned(tmp_path, data):
    limit = 6 * (BLOCK + 16)
    storage = cached(tmp_path, data, limit)
    storage.read_range("x.tar", 0, 3000)
    leftover = blocks(tmp_path)[0].with_name("dead.tmp")
    leftover.write_bytes(b"x" * 5000)
    (tmp_path / "near" / "usage").write_text("rubbish")
    assert storage.read("x.tar") == data
    assert not leftover.exists() and held(tmp_path) <= limit
    shutil.rmtree(tmp_path / "near")  # by somebody who wanted the space
    assert storage.read("x.tar") == data


def test_a_cache_that_cannot_be_written_is_warned_of(tmp_path, data, capsys):
    storage = cached(tmp_path, data)
    (tmp_path / "near" / "usage").mkdir()
    assert storage.read("x.tar") == data == storage.read("x.tar")
    assert capsys.readouterr().err.count("going on without the cache") == 1
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cache_dir: .*can't be made"):
        BlockCache(tmp_path / "file" / "x", 10)


def _hammer(folder: Path, seed: int, limit: int, barrier, results) -> None:
    cache.BLOCK = BLOCK
    data = (folder / "far" / "x.tar").read_bytes()
    storage = cached(folder, data, limit)
    rng = np.random.default_rng(seed)
    barrier.wait(30)
    wrong = over = 0
    for i in range(400):
        offset, size = int(rng.integers(0, 10_400)), int(rng.integers(1, 2500))
        wrong += storage.read_range("x.tar", offset, size) != data[offset : offset + size]
        if i % 20 == 0:
            with storage.cache._locked():
                over += held(folder) > limit
    results.put((wrong, over))


def test_two_processes_share_a_small_cache(tmp_path, data):
    limit, context = 4 * (BLOCK + 16), multiprocessing.get_context("fork")
    barrier, results = context.Barrier(2), context.Queue()
    workers = [context.Process(target=_hammer, args=(tmp_path, seed, limit, barrier, results)) for seed in (1, 2)]
    for worker in workers:
        worker.start()
    assert [results.get(timeout=60) for _ in workers] == [(0, 0), (0, 0)]
    for worker in workers:
        worker.join(10)
    assert 0 < held(tmp_path) <= limit and not list((tmp_path / "near").glob("*/*.tmp"))


def test_a_shard_set_is_read_once(made, card, tmp_path):
    local = build(card, made(8), tmp_path / "served" / "set", BuildOptions(min_shards=2), ["train"])
    server = FaultyServer(tmp_path / "served")
    try:
        settings = StorageConfig(cache_dir=str(tmp_path / "near"), cache_gb=1e-3)
        near = ShardSamples(local, "train")
        for _ in range(2):
            far = ShardSamples(ShardSet.open(f"{server.url}/set", settings), "train")
            assert far.images(range(8)) == near.images(range(8))
            assert far.name(3) == near.name(3)
            asked, server.requests = server.requests, []
        assert [path for path, _ in asked] == ["/set/manifest.json"]
        assert not isinstance(ShardSet.open(local.root, settings).storage, CachedStorage)
        with pytest.raises(FileNotFoundError):
            open_storage(server.url).read("nothing")
    finally:
        server.close()
