"""A machine's own copy of a shard set, which launchers name."""

from __future__ import annotations

import shutil

from stego_dist.data.manifest import ShardSet
from stego_dist.data.samples import ShardSamples
from tests.tiny import build_shards


def test_the_copy_is_read_where_there_is_one(tmp_path, monkeypatch):
    original = build_shards(tmp_path)
    first = ShardSamples(original, "train").image_bytes(0)
    place, copy = tmp_path / "shards", tmp_path / "copy"
    monkeypatch.setenv("STEGO_STAGED", f"{place}={copy}")
    assert ShardSet.open(place).root == place  # no copy on this machine
    shutil.copytree(place, copy)
    assert ShardSet.open(tmp_path / "source" / ".." / "shards").root != copy  # another way to say it: not meant
    staged = ShardSet.open(str(place))
    assert staged.root == copy and staged.manifest == original.manifest
    shutil.rmtree(place)
    assert ShardSamples(staged, "train").image_bytes(0) == first
