"""Builds that end badly: killed, out of disk, folders that can't be read; and what the next build makes of it."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from stego_dist.data import pack, plan
from stego_dist.data.manifest import ShardSet
from stego_dist.data.pack import build
from stego_dist.data.plan import BuildOptions
from stego_dist.data.sources import find_pairs
from stego_dist.errors import StaleInputError, UserError
from tests.data.test_pack import hashes
from tests.launching import environment

OPTIONS = BuildOptions(min_shards=4, crops="random")
KILLED = """
import os, signal, sys
from pathlib import Path
from stego_dist.data import pack
from stego_dist.data.card import load_card
from stego_dist.data.plan import BuildOptions

cut_image, calls = pack.cut_image, []

def die(source, *rest):
    calls.append(source)
    if len(calls) == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)
    return cut_image(source, *rest)

pack.cut_image = die
options = BuildOptions(min_shards=4, crops="random")
pack.build(load_card("folder"), Path(sys.argv[1]), Path(sys.argv[2]), options, ["train"])
"""


def test_a_killed_builder_goes_on_and_ends_at_the_same_bytes(made, tmp_path):
    from stego_dist.data.card import load_card

    root, out, card = made(12), tmp_path / "out", load_card("folder")
    build(card, root, tmp_path / "whole", OPTIONS, ["train"])
    arguments = [sys.executable, "-c", KILLED, str(root), str(out), "8"]
    done = subprocess.run(arguments, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    finished = [f"train-0000{i}" for i in range(2)]
    visible = sorted(path.name for path in out.iterdir() if path.is_file() and not path.name.startswith("."))
    assert visible == sorted(f"{name}{end}" for name in finished for end in (".tar", ".index.npz"))
    assert len(list(out.glob(".train-00002.tar.*.tmp"))) == 1  # the half shard, under a name that nobody reads
    with pytest.raises(UserError, match="stego-dist shards build"):
        ShardSet.open(out)
    before = {name: (out / f"{name}.tar").stat() for name in finished}
    build(card, root, out, OPTIONS, ["train"])
    assert hashes(out) == hashes(tmp_path / "whole")
    for name, stat in before.items():
        now = (out / f"{name}.tar").stat()
        assert (now.st_ino, now.st_mtime_ns) == (stat.st_ino, stat.st_mtime_ns)


def test_random_crops_depend_on_seed_and_key_alone(made, card, tmp_path):
    """Neither the number of shards nor who packs them in which order moves a crop."""
    root = made(9)
    backwards = lambda fn, tasks: [fn(task) for task in reversed(tasks)]  # noqa: E731
    boxes = []
    for i, (shards, runner) in enumerate(((1, pack.serial), (4, pack.serial), (9, backwards))):
        options = BuildOptions(min_shards=shards, crops="random", seed=5)
        shard_set = build(card, root, tmp_path / str(i), options, ["train"], runner)
        assert len(shard_set.split("train").shards) == shards
        boxes.append(all_boxes(shard_set))
    assert len(boxes[0]) == 45 and boxes[0] == boxes[1] == boxes[2]
    reseeded = build(card, root, tmp_path / "other", BuildOptions(crops="random", seed=6), ["train"])
    assert all_boxes(reseeded) != boxes[0]


def all_boxes(shard_set: ShardSet) -> dict[tuple[str, int], list[int]]:
    import json
    import tarfile

    found = {}
    for shard in shard_set.split("train").shards:
        with tarfile.open(shard_set.tar(shard)) as tar:
            for member in tar:
                if member.name.endswith(".json"):
                    meta = json.load(tar.extractfile(member))
                    found[meta["source"], meta["crop"]] = meta["box"]
    return found


def test_a_restart_packs_only_what_is_missing_and_says_what_is_there(made, card, tmp_path, capsys):
    root, out = made(8), tmp_path / "out"
    options = BuildOptions(min_shards=4)
    build(card, root, out, options, ["train"])
    (out / "train-00002.tar").unlink()
    capsys.readouterr()
    asked = []
    build(
        card, root, out, options, ["train"], lambda fn, tasks: asked.append([t.name for t in tasks]) or map(fn, tasks)
    )
    assert asked == [["train-00002"]]
    assert "3 of 4 shards are there already" in (text := capsys.readouterr().err) and "packing 8/8" in text
    build(card, root, out, options, ["train"], lambda fn, tasks: pytest.fail("nothing is left to pack"))


def test_stale_shards_are_refused_before_anything_is_packed(made, card, tmp_path):
    root, out = made(8), tmp_path / "out"
    build(card, root, out, BuildOptions(min_shards=4), ["train"])
    (out / "train-00000.tar").unlink()
    changed = BuildOptions(min_shards=4, max_side=40)
    with pytest.raises(StaleInputError, match="max_side: made with None, now 40"):
        build(card, root, out, changed, ["train"], lambda fn, tasks: pytest.fail("too late"))


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("where", ["tar", "index", "record", "manifest"])
def test_a_full_disk_names_the_folder_and_loses_nothing(made, card, tmp_path, monkeypatch, where, code):
    root, out = made(6), tmp_path / "out"
    options = BuildOptions(min_shards=3)
    build(card, root, tmp_path / "whole", options, ["train"])
    begun = []

    def full(*arguments, **keywords):
        raise OSError(code, os.strerror(code))

    def fill(fn, tasks):
        for task in tasks:
            if task.name == "train-00001":
                begun.append(task.name)
                with monkeypatch.context() as patched:
                    target = {"tar": "_add", "record": "write_json"}.get(where)
                    patched.setattr(*((pack, target) if target else (pack.np, "savez_compressed")), full)
                    yield fn(task)
            yield fn(task)

    if where == "manifest":
        with monkeypatch.context() as patched:
            patched.setattr(pack.Manifest, "content_digest", full)
            with pytest.raises(UserError) as error:
                build(card, root, out, options, ["train"])
    else:
        with pytest.raises(UserError) as error:
            build(card, root, out, options, ["train"], fill)
    text = str(error.value)
    assert f"cannot write to {out}: the disk or the quota is full" in text and "another folder" in text
    assert "finished shards are kept" in text
    assert not (out / "manifest.json").exists() and (out / "train-00000.tar").exists()
    assert not list(out.rglob(".*"))  # nothing half written is left to fill the disk
    build(card, root, out, options, ["train"])
    assert hashes(out) == hashes(tmp_path / "whole")


def test_a_folder_that_cannot_be_written(made, card, tmp_path):
    root = made(2)
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(UserError, match=r"cannot write to .*file/out: .*Make the folder writable"):
        build(card, root, tmp_path / "file" / "out", BuildOptions(), ["train"])


def test_a_source_that_a_node_does_not_see_is_no_rejected_image(made, card, tmp_path):
    root = made(2)
    task = plan.plan_build(card, root, tmp_path / "out", BuildOptions(on_error="skip"), ["train"]).tasks[0]
    root.rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=r"shard train-00000: .*raw does not exist on host"):
        pack.pack_shard(task)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", ["imgs", "labels"])
@pytest.mark.parametrize("on_error", ["fail", "skip"])
def test_an_unreadable_folder_is_an_error_never_an_absence(made, card, tmp_path, monkeypatch, kind, on_error):
    root = made(3)
    closed = root / kind / "train" / "closed"
    closed.mkdir()
    scandir = os.scandir

    def guarded(path):
        if Path(path) == closed:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", guarded)
    with pytest.raises(UserError, match=rf"split train: .*{kind}/train/closed cannot be read: Permission denied"):
        find_pairs(card, root, "train", on_error)


def test_linked_folders_are_followed_and_loops_refused(made, card, tmp_path):
    root = made(3)
    made(2, split="more", root="elsewhere")
    for kind in ("imgs", "labels"):
        (root / kind / "train" / "linked").symlink_to(tmp_path / "elsewhere" / kind / "more")
    assert [pair.key for pair in find_pairs(card, root, "train")] == [
        *(f"img {i:02d} é" for i in range(3)), *(f"linked/img {i:02d} é" for i in range(2)),
    ]  # fmt: skip
    loop = root / "imgs/train/sub/loop"
    loop.parent.mkdir()
    loop.symlink_to(root / "imgs")
    with pytest.raises(UserError, match="sub/loop links to a folder that it lies in, .*imgs; remove"):
        find_pairs(card, root, "train")
    loop.unlink()
    a, b = root / "imgs/train/a", root / "imgs/train/b"
    for folder, other in ((a, b), (b, a)):
        folder.mkdir()
        (folder / "loop").symlink_to(other)
    with pytest.raises(UserError, match="links to a folder that it lies in"):
        find_pairs(card, root, "train")
