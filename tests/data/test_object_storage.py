"""Shard sets in a bucket and on a web server: what is built, read and verified there equals the local one.

The servers are rclone's; the one for S3 checks signatures.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
from dataclasses import fields, replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from stego_dist.cli import shards as cli
from stego_dist.config import StorageConfig
from stego_dist.data.card import load_card
from stego_dist.data.manifest import ShardSet
from stego_dist.data.order import Order
from stego_dist.data.pack import build, pack_shard, serial
from stego_dist.data.plan import BuildOptions, plan_build
from stego_dist.data.samples import ShardSamples
from stego_dist.data.storage import open_storage
from stego_dist.data.storage.s3 import S3Storage
from stego_dist.data.verify import verify
from stego_dist.engine.feed import NeighbourDraw, OnlineFeed
from stego_dist.engine.inputs import make_backbone
from stego_dist.errors import ConfigError, StaleInputError, UserError
from stego_dist.jobs.embed import embed_shard
from tests.servers import KEY, SECRET, rclone
from tests.tiny import config_at, write_images

IMAGES, OPTIONS = 12, BuildOptions(min_shards=3)
S3 = "s3://bucket/sets/tiny"


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """Folder of the tests; a local set in `local`, the bucket's files in `store/bucket`; URL of the web server."""
    root = tmp_path_factory.mktemp("object_storage")
    write_images(root / "source", train=IMAGES, val=2)
    local = build(load_card("folder"), root / "source", root / "local", OPTIONS)
    (root / "store" / "bucket").mkdir(parents=True)
    with (
        rclone("s3", root / "store", root / "s3.log") as s3,
        rclone("http", root, root / "http.log") as http,
        pytest.MonkeyPatch.context() as patch,
    ):
        for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL_S3"):
            patch.delenv(name, raising=False)
        patch.setenv("HOME", str(root))
        patch.setenv("NO_PROXY", "127.0.0.1")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        patch.setenv("AWS_ENDPOINT_URL", s3)
        patch.setenv("AWS_ACCESS_KEY_ID", KEY)
        patch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        built = build(load_card("folder"), root / "source", S3, OPTIONS)
        yield root, local, built, f"{http}/local"


def objects(root: Path, prefix: str = "sets/tiny") -> dict[str, bytes]:
    folder = root / "store" / "bucket" / prefix
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(params=["s3", "http"])
def remote(request, places) -> ShardSet:
    return ShardSet.open(S3 if request.param == "s3" else places[3], StorageConfig(tries=2))


def test_what_is_built_in_a_bucket_is_what_is_built_in_a_folder(places):
    root, local, built, _ = places
    expected = {str(p.relative_to(root / "local")): p.read_bytes() for p in (root / "local").rglob("*") if p.is_file()}
    assert objects(root) == expected and built.manifest == local.manifest
    assert ShardSet.open(S3) == built and str(built.root) == S3


def test_samples_batches_and_features_equal_the_local_ones(places, remote, tmp_path):
    local = places[1]
    near, far = ShardSamples(local, "train"), ShardSamples(remote, "train")
    assert far.images(range(IMAGES)) == near.images(range(IMAGES)) and far.name(7) == near.name(7)

    class Table:
        def rows(self, ids):
            return (ids[:, None] + np.array([0, 5, 3, 9])) % IMAGES

    order = Order(tuple(shard.samples for shard in near.split.shards), 4, seed=0, window=8)
    draw = NeighbourDraw(Table(), seed=0, group_size=2, positives=3)  # type: ignore[arg-type]
    for workers in (0, 2):  # loader workers are forked from a process that has read already
        feeds = [
            OnlineFeed(s, order, range(4), draw, resolution=16, resize="bilinear", workers=workers) for s in (near, far)
        ]
        for a, b in islice(zip(*(feed.batches(1) for feed in feeds)), 4):
            for field in fields(a):
                assert torch.equal(getattr(a, field.name), getattr(b, field.name))

    config = config_at(tmp_path)
    backbone = make_backbone(config)
    both = (embed_shard(config, s, backbone, 1, True, torch.device("cpu")) for s in (near, far))
    for one, other in zip(*both, strict=True):
        for name in ("descriptors", "source", "bank", "labels"):
            assert np.array_equal(getattr(one, name), getattr(other, name))


def test_verify_checks_what_lies_there(places, remote):
    root = places[0]
    assert verify(remote, workers=1) == []
    s3 = str(remote.root).startswith("s3")
    folder = root / "store" / "bucket" / "sets" / "tiny" if s3 else root / "local"
    original = (folder / "train-00001.tar").read_bytes()
    try:
        (folder / "train-00001.tar").write_bytes(original[:-1] + b"!")
        assert verify(remote, workers=1) == [
            f"{remote.root}/train-00001.tar: not the bytes that were written (sha256 differs)"
        ]
        (folder / "train-00001.tar").unlink()
        (problem,) = verify(remote, workers=1)
        assert problem.startswith(f"{remote.root}/train-00001.tar: cannot be read: No such file, the server answered")
    finally:
        (folder / "train-00001.tar").write_bytes(original)


def run(*argv: object) -> int:
    parser = argparse.ArgumentParser()
    cli.add_parser(parser.add_subparsers())
    args = parser.parse_args(["shards", *map(str, argv)])
    return args.run(args)


def test_the_commands_take_urls(places, remote, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run("verify", remote.root) == 0 and run("show", remote.root, "--json") == 0
    out = capsys.readouterr().out
    assert f"{remote.root}: whole" in out.replace("\n", "") and json.loads(out[out.index("{") :])["path"] == remote.root
    assert (tmp_path / "sheet-train.png").exists() and (tmp_path / "sheet-val.png").exists()


def test_a_build_goes_on_where_it_stopped(places, monkeypatch):
    root, local, _, _ = places
    put: list[str] = []
    original = S3Storage.put

    def note(self: S3Storage, file: Path, name: str) -> None:
        put.append(name)
        original(self, file, name)

    monkeypatch.setattr(S3Storage, "put", note)

    def stops(fn, tasks):
        yield from serial(fn, tasks[:2])
        raise KeyboardInterrupt

    url, source = "s3://bucket/sets/again", root / "source"
    with pytest.raises(KeyboardInterrupt):
        build(load_card("folder"), source, url, OPTIONS, runner=stops)
    names = [f"train-0000{i}" for i in range(2)]
    assert put == [name for n in names for name in (f"{n}.tar", f"{n}.index.npz", f"parts/{n}.json")]
    with pytest.raises(UserError, match=rf"{url}/manifest\.json does not exist"):
        ShardSet.open(url)
    put.clear()
    (root / "store" / "bucket" / "sets" / "again" / "train-00001.tar").write_bytes(b"cut")
    assert build(load_card("folder"), source, url, OPTIONS).manifest == local.manifest
    assert "train-00000.tar" not in put and "train-00001.tar" in put and put[-1] == "manifest.json"
    assert objects(root, "sets/again") == objects(root)
    put.clear()
    build(load_card("folder"), source, url, OPTIONS)
    assert put == ["rejected.jsonl", "manifest.json"]

    with pytest.raises(StaleInputError, match=rf"train-00000 in {url} .*\n.*quality: made with 95, now 50"):
        build(load_card("folder"), source, url, BuildOptions(min_shards=3, quality=50))
    with pytest.raises(UserError, match="also holds split val"):
        build(load_card("folder"), source, url, OPTIONS, ["train"])
    (root / "store" / "bucket" / "sets" / "again" / "mine.txt").write_text("kept")
    built = build(load_card("folder"), source, url, BuildOptions(min_shards=1), ["train"], overwrite=True)
    names = {"manifest.json", "rejected.jsonl", "mine.txt", "train-00000.tar", "train-00000.index.npz"}
    assert {*objects(root, "sets/again")} == names | {"parts/train-00000.json"} and built.splits == ["train"]
    assert not list(Path(os.environ.get("TMPDIR", "/tmp")).glob("stego_dist-*"))


def test_wrong_keys_no_keys_and_no_bucket(places, monkeypatch, capsys):
    root = places[0]
    for patch in ({"AWS_SECRET_ACCESS_KEY": "wrongsecret"}, {"AWS_ACCESS_KEY_ID": "NOSUCHKEY"}):
        with monkeypatch.context() as m:
            for name, value in patch.items():
                m.setenv(name, value)
            for act in (
                lambda: ShardSet.open(S3),
                lambda: open_storage(S3).size("manifest.json"),
                lambda: build(load_card("folder"), root / "source", "s3://bucket/x", OPTIONS),
            ):
                with pytest.raises(UserError, match=r"s3://bucket/.*answered 403.*check the keys.*AWS_") as error:
                    act()
                assert SECRET not in str(error.value) and "wrongsecret" not in str(error.value)
    with monkeypatch.context() as m:
        m.delenv("AWS_SECRET_ACCESS_KEY")
        with pytest.raises(ConfigError, match=r"no keys for s3:// were found: set AWS_ACCESS_KEY_ID"):
            ShardSet.open(S3)
        (root / ".aws").mkdir()
        keys = f"aws_access_key_id = {KEY}\naws_secret_access_key = {SECRET}\n"
        (root / ".aws" / "credentials").write_text(f"[mine]\n{keys}")
        m.setenv("AWS_PROFILE", "mine")
        (root / ".aws" / "config").write_text(f"[profile mine]\nendpoint_url = {os.environ['AWS_ENDPOINT_URL']}\n")
        m.delenv("AWS_ENDPOINT_URL")
        assert ShardSet.open(S3).splits == ["train", "val"]
        m.setenv("AWS_ENDPOINT_URL", "localhost:9000")
        with pytest.raises(ConfigError, match=r"AWS_ENDPOINT_URL is 'localhost:9000', expected http\(s\)://host"):
            ShardSet.open(S3)
    with pytest.raises(UserError, match="s3://nobucket: there is no such bucket"):
        build(load_card("folder"), root / "source", "s3://nobucket/x", OPTIONS)
    with pytest.raises(UserError, match=r"shard set not found: s3://nobucket/x/manifest\.json"):
        ShardSet.open("s3://nobucket/x")
    with pytest.raises(UserError, match="only read"):
        build(load_card("folder"), root / "source", places[3], OPTIONS)


def test_a_task_packs_anywhere(places):
    """What a worker of another host does: the task alone says where its files go."""
    root, local, _, _ = places
    plan = plan_build(load_card("folder"), root / "source", root / "unused", OPTIONS, ["train"])
    task = pickle.loads(pickle.dumps(replace(plan.tasks[2], target=open_storage("s3://bucket/other"))))
    record = pack_shard(task)
    assert record["sha256"] == local.split("train").shards[2].sha256 and not (root / "unused").exists()
    assert {*objects(root, "other")} == {"train-00002.tar", "train-00002.index.npz", "parts/train-00002.json"}
