"""Reading over HTTP from a server that fails on purpose, against the bytes of the folder behind it."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import socket
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from stego_dist.config import StorageConfig
from stego_dist.data.manifest import ShardSet
from stego_dist.data.order import Order
from stego_dist.data.pack import build
from stego_dist.data.plan import BuildOptions
from stego_dist.data.samples import ShardSamples
from stego_dist.data.storage import LocalStorage, Storage, open_storage
from stego_dist.data.storage import retry as retry_module
from stego_dist.data.storage.retry import LONGEST_WAIT_S, pause
from stego_dist.data.stream import stream_lane
from stego_dist.errors import ConfigError, UserError
from tests.servers import FaultyServer

SIZE = 700_001


@pytest.fixture
def naps(monkeypatch) -> list[float]:
    """Waits that would have been made."""
    waits: list[float] = []
    monkeypatch.setattr(retry_module.time, "sleep", waits.append)
    return waits


@pytest.fixture
def server(tmp_path):
    folder = tmp_path / "served"
    folder.mkdir()
    (folder / "x.bin").write_bytes(np.random.default_rng(0).bytes(SIZE))
    server = FaultyServer(folder)
    yield server
    server.close()


def storage_of(server: FaultyServer, **settings) -> Storage:
    return open_storage(server.url, StorageConfig(**{"tries": 4, "timeout_s": 5, **settings}))


def content(server: FaultyServer) -> bytes:
    return (server.root / "x.bin").read_bytes()


def test_kinds_of_places():
    assert open_storage("a/b") == LocalStorage(Path("a/b")) == open_storage("file://a/b")
    assert open_storage("s3://bucket/p/").root == "s3://bucket/p" and open_storage("http://h:1/x").where("y") == (
        "http://h:1/x/y"
    )
    for place, text in {
        "gs://bucket/x": "not gs://.*AWS_ENDPOINT_URL",
        "http://me:secret@host/x": "no user",
        "https://host/x?token=secret": "no user, query",
        "s3:///x": "bucket",
    }.items():
        with pytest.raises(ConfigError, match=text) as error:
            open_storage(place)
        assert "secret" not in str(error.value)


def test_a_folder_shows_whole_files_or_none(tmp_path):
    storage = open_storage(tmp_path / "s")
    (tmp_path / "f").write_bytes(b"0123456789")
    storage.put(tmp_path / "f", "parts/f")
    assert storage.read("parts/f") == b"0123456789" and storage.size("parts/f") == 10
    assert storage.list("parts") == ["parts/f"] and storage.list("nothing") == [] and storage.size("g") is None
    assert storage.read_range("parts/f", 8, 5) == b"89" and storage.read_range("parts/f", 20, 5) == b""
    assert storage.open("parts/f", 3).read() == b"3456789"
    with pytest.raises(FileNotFoundError):
        storage.put(tmp_path / "missing", "g")
    assert storage.list("") == []
    storage.remove("parts/f")
    storage.remove("parts/f")
    assert storage.list("parts") == []


@pytest.mark.parametrize("ranges", [True, False])
def test_ranges_and_streams_give_the_files_bytes(server, ranges):
    server.ranges = ranges
    storage, data = storage_of(server), content(server)
    assert storage.read("x.bin") == data and storage.size("x.bin") == SIZE
    for offset, size in [(0, 10), (300_000, 77), (SIZE - 5, 5), (SIZE - 5, 50), (SIZE, 3), (SIZE + 9, 3), (4, 0)]:
        assert storage.read_range("x.bin", offset, size) == data[offset : offset + size]
    for offset, end in [(0, None), (123, None), (500_000, 600_000), (SIZE - 1, None), (SIZE, None), (7, 7)]:
        with storage.open("x.bin", offset, end) as stream:
            assert stream.read() == data[offset:end]
    with storage.local_copy("x.bin") as path:
        assert path.read_bytes() == data
    assert not path.exists()


@pytest.mark.parametrize("status", [500, 502, 503, 504, 429, 408])
def test_what_passes_is_tried_again(server, naps, status):
    server.status_first = [status] * 3
    assert storage_of(server).read_range("x.bin", 5, 9) == content(server)[5:14]
    assert len(server.requests) == 4 and naps == sorted(naps) and len(naps) == 3


def test_what_s3_says_under_another_status_is_tried_again(server, naps):
    server.status_first, server.page = [400], b"<Error><Code>RequestTimeout</Code></Error>"
    assert storage_of(server).read("x.bin") == content(server) and len(naps) == 1


def test_after_the_limit_the_error_says_everything(server, naps):
    server.status_always = 503
    for read in (lambda s: s.read("x.bin"), lambda s: s.open("x.bin").read(), lambda s: s.size("x.bin")):
        server.requests.clear()
        with pytest.raises(UserError, match=rf"{server.url}/x\.bin: .* answered 503.*after 4 tries.*tries sets"):
            read(storage_of(server))
        assert len(server.requests) == 4


def test_the_server_may_ask_for_a_longer_wait(server, naps):
    server.status_first, server.headers = [429, 503], {"Retry-After": "7"}
    assert storage_of(server).read("x.bin") == content(server)
    assert naps == [7, 7]


def test_waits_double_with_jitter_up_to_a_limit():
    assert all(0.125 * 2**n <= pause(n + 1) <= 0.25 * 2**n for n in range(7))
    assert LONGEST_WAIT_S / 2 <= pause(50) <= LONGEST_WAIT_S == pause(1, asked=10_000)
    assert len({pause(5) for _ in range(10)}) > 5


@pytest.mark.parametrize("status", [401, 403, 400, 501])
def test_what_does_not_pass_fails_at_once(server, naps, status):
    server.status_always = status
    for read in (lambda s: s.read_range("x.bin", 0, 9), lambda s: s.open("x.bin").read()):
        with pytest.raises(UserError, match=rf"x\.bin: the server answered {status}"):
            read(storage_of(server))
    assert len(server.requests) == 2 and naps == []


def test_what_is_not_there_fails_at_once(server, naps):
    storage = storage_of(server)
    for read in (storage.read, lambda name: storage.read_range(name, 0, 4), lambda name: storage.open(name).read()):
        with pytest.raises(FileNotFoundError, match=r"404.*nothing\.tar"):
            read("nothing.tar")
    assert storage.size("nothing.tar") is None and len(server.requests) == 4 and naps == []


def test_bodies_that_are_cut_are_completed(server, naps):
    storage, data = storage_of(server), content(server)
    server.cut = 3
    assert storage.read_range("x.bin", 100, 5000) == data[100:5100]
    server.requests.clear()
    server.cut = 9  # more than `tries`, but every answer brings something
    assert storage.open("x.bin", 50).read() == data[50:]
    begins = [int(wanted.removeprefix("bytes=").split("-")[0]) for _, wanted in server.requests]
    assert begins[0] == 50 and len(set(begins)) == len(begins) == 10 and begins == sorted(begins)
    server.cut_always = True
    with pytest.raises(UserError, match=r"x\.bin: .*(?i:incomplete|early).*after 4 tries"):
        storage.read_range("x.bin", 0, 1000)


def test_nobody_there(naps):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(UserError, match=rf"{url}/x: .*refused.*after 3 tries"):
            open_storage(url, StorageConfig(tries=3)).read("x")
    assert len(naps) == 2


def test_web_servers_are_only_read(server, tmp_path):
    storage = storage_of(server)
    for write in (
        lambda: storage.put(tmp_path / "served" / "x.bin", "y"),
        lambda: storage.remove("x.bin"),
        lambda: storage.staging(),
        lambda: storage.list(""),
    ):
        with pytest.raises(UserError, match="only read; write shards to a folder or to s3://"):
            write()


def _reads(storage: Storage, expected: bytes) -> bool:
    return storage.read_range("x.bin", 10, 20) == expected


def test_forks_and_copies_read_too(server):
    storage, expected = storage_of(server), content(server)[10:30]
    assert _reads(storage, expected)
    copy = pickle.loads(pickle.dumps(storage))
    assert copy == storage and _reads(copy, expected)
    storage._pool._state[1].acquire()  # as if another thread were connecting at the moment of the fork
    if (child := os.fork()) == 0:
        os._exit(0 if _reads(storage, expected) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(_reads, (storage, expected))


def test_samples_and_streams_of_a_bad_server(made, card, server, naps, tmp_path):
    local = build(card, made(9), tmp_path / "served" / "set", BuildOptions(crops="five", min_shards=2), ["train"])
    remote = ShardSet.open(f"{server.url}/set", StorageConfig(tries=3))
    assert remote.manifest == local.manifest and remote != local
    near, far = ShardSamples(local, "train"), ShardSamples(remote, "train")
    order = Order(tuple(shard.samples for shard in near.split.shards), 4, seed=0, window=12)
    expected = [list(islice(stream_lane(near, order, lane), 14)) for lane in range(4)]
    server.status_first, server.cut = [503, 429], 3
    assert [list(islice(stream_lane(far, order, lane), 14)) for lane in range(4)] == expected
    server.status_first, server.cut = [500, 504], 1
    ids = [30, 2, 44, 2]
    assert far.images(ids) == [near.image_bytes(i) for i in ids] and far.label_bytes(3) == near.label_bytes(3)
    assert [far.name(i) for i in (0, 44)] == [near.name(i) for i in (0, 44)]
    server.requests.clear()
    lane = list(islice(stream_lane(far, order, 0, 0), 3))
    assert len(lane) == 3 and all(wanted and not wanted.endswith("-") for _, wanted in server.requests[:-1])


def test_what_is_missing_afar_is_named(made, card, server, naps, tmp_path):
    local = build(card, made(4), tmp_path / "served" / "set", BuildOptions(min_shards=2), ["train"])
    samples = ShardSamples(ShardSet.open(f"{server.url}/set"), "train")
    tar = local.tar(local.manifest.splits[0].shards[1])
    os.truncate(tar, tar.stat().st_size // 4)
    with pytest.raises(
        UserError, match=r"http://.*train-00001\.tar: sample .*ends after \d+ of.*shards verify http://"
    ):
        [samples.image_bytes(i) for i in (2, 3)]
    tar.unlink()
    order = Order(tuple(shard.samples for shard in samples.split.shards), 1, seed=0, window=12)
    for read in (lambda: samples.image_bytes(3), lambda: list(islice(stream_lane(samples, order, 0), 4))):
        with pytest.raises(UserError, match=r"train-00001\.tar.*404.*shards verify"):
            read()
    with pytest.raises(UserError, match=r"http://.*/nothing/manifest\.json does not exist\. Write it with"):
        ShardSet.open(f"{server.url}/nothing")
    (tmp_path / "served" / "set" / "manifest.json").write_text("<html>hello</html>")
    with pytest.raises(UserError, match=r"damaged: http://.*/set/manifest\.json"):
        ShardSet.open(f"{server.url}/set")
