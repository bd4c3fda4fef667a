"""What words on a command line mean, and that nothing which can't be found keeps the rest from being found."""

from __future__ import annotations

import io
import os
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stego_dist.config import StorageConfig
from stego_dist.data.sources import open_image
from stego_dist.errors import UserError
from stego_dist.inference import sources
from stego_dist.inference.inputs import list_inputs, printable
from stego_dist.inference.sources import FileSource, UrlSource
from tests.inference.made import picture
from tests.servers import FaultyServer
from tests.tiny import build_shards

STORAGE = StorageConfig(tries=1, timeout_s=5)


def listed(*words, stdin=(), split="val", out=None):
    return list_inputs([str(word) for word in words], split=split, storage=STORAGE, stdin=stdin, out=out)


def names(*words, **kwargs):
    listing = listed(*words, **kwargs)
    assert not listing.failures
    return [item.name for item in listing.inputs]


@pytest.fixture
def photos(tmp_path) -> Path:
    folder = tmp_path / "photos"
    for i, name in enumerate(
        ["b.jpg", "a.png", "sub/c.JPEG", "sub/deep/d.webp", "notes.txt", ".hidden.jpg", ".h/e.jpg"]
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if name.endswith("txt"):
            (folder / name).write_text("no image")
        else:
            Image.fromarray(picture(20, 30, i)).save(folder / name, "PNG")
    return folder


def test_folders_are_walked_in_order_without_what_is_hidden(photos):
    assert names(photos) == ["a", "b", "sub/c", "sub/deep/d"]


def test_files_have_their_own_names_whatever_their_suffix(photos):
    assert names(photos / "sub/c.JPEG", photos / "notes.txt") == ["c", "notes"]


def test_globs_are_named_from_their_fixed_part_on(photos):
    assert names(f"{photos}/*/*.JPEG") == ["sub/c"]
    assert names(f"{photos}/**/*") == ["a", "b", "sub/c", "sub/deep/d"]
    assert names(f"{photos}/s*") == ["sub/c", "sub/deep/d"]
    assert names(f"{photos}/*.jpg") == ["b"]


def test_a_file_whose_name_looks_like_a_glob(tmp_path):
    path = tmp_path / "a[1].png"
    Image.fromarray(picture(4, 4)).save(path)
    assert names(path) == ["a_1_"]


def test_what_is_named_twice_is_taken_once(photos):
    assert names(photos / "b.jpg", photos, f"{photos}/*.jpg") == ["b", "a", "sub/c", "sub/deep/d"]


def test_two_folders_of_the_same_names(photos, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "b.jpg").write_bytes((photos / "b.jpg").read_bytes())
    assert names(photos, other) == ["a", "photos/b", "sub/c", "sub/deep/d", "other/b"]


def test_links_are_followed_but_not_in_circles(photos, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    Image.fromarray(picture(4, 4)).save(elsewhere / "e.png")
    (photos / "link").symlink_to(elsewhere)
    (photos / "sub/up").symlink_to(photos)
    assert names(photos) == ["a", "b", "link/e", "sub/c", "sub/deep/d"]


def test_the_output_is_not_its_own_input(photos):
    (photos / "out/overlay").mkdir(parents=True)
    (photos / "out/overlay/a.jpg").write_bytes((photos / "b.jpg").read_bytes())
    assert "out/overlay/a" in names(photos)
    assert names(photos, out=photos / "out") == ["a", "b", "sub/c", "sub/deep/d"]


def test_a_list_on_stdin(photos):
    lines = [f"{photos}/b.jpg\n", "\n", f"{photos}/sub\r\n", f"{photos}/a.png"]
    assert names("-", stdin=lines) == ["b", "c", "deep/d", "a"]


def test_what_is_not_there_is_named_and_the_rest_goes_on(photos, tmp_path):
    (tmp_path / "empty").mkdir()
    listing = listed(tmp_path / "none.jpg", f"{photos}/*.gif", tmp_path / "empty", "a\0b", photos / "b.jpg")
    assert [failure.where for failure in listing.failures] == [f"{photos}/*.gif", f"{tmp_path}/empty"]
    assert [item.name for item in listing.inputs] == ["none", "a_b", "b"]  # what is missing fails when it is read
    for item, reason in zip(listing.inputs, ("No such file", "null")):
        with pytest.raises(UserError, match=reason):
            item.source.read()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_may_not_be_read(photos):
    (photos / "sub").chmod(0)
    assert listed(photos).failures


def test_what_would_block_or_never_end_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    for path in (tmp_path / "pipe.jpg", Path("/dev/zero")):
        with pytest.raises(UserError, match="not a regular file"):
            FileSource(path, str(path)).read()


def test_a_file_too_large_to_be_read_whole(photos, monkeypatch):
    monkeypatch.setattr(sources, "MAX_BYTES", 100)
    with pytest.raises(UserError, match="limit of 100 bytes"):
        FileSource(photos / "b.jpg", "b.jpg").read()


def test_a_stamp_changes_with_the_file(photos):
    source = FileSource(photos / "b.jpg", "b.jpg")
    before = source.stamp()
    assert source.stamp() == before
    os.utime(photos / "b.jpg", (1, 1))
    assert source.stamp() != before


def make_tar(path, members):
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        link = tarfile.TarInfo("link.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)


def png(seed=0):
    buffer = io.BytesIO()
    Image.fromarray(picture(10, 12, seed)).save(buffer, "PNG")
    return buffer.getvalue()


def test_images_of_a_tar_stay_in_the_tar(tmp_path):
    make_tar(
        tmp_path / "x.tar", [("../../up.png", png(1)), ("/abs/b.png", png(2)), ("b.label.png", png()), ("c.txt", b"")]
    )
    listing = listed(tmp_path / "x.tar")
    assert [item.name for item in listing.inputs] == ["up", "abs/b"]
    for item, seed in zip(listing.inputs, (1, 2)):
        assert np.array_equal(np.array(open_image(item.source.read())), picture(10, 12, seed))
        assert pickle.loads(pickle.dumps(item)) == item
    (tmp_path / "x.tar").write_bytes((tmp_path / "x.tar").read_bytes()[:700])
    with pytest.raises(UserError, match="the tar ends"):
        listing.inputs[0].source.read()


@pytest.mark.parametrize("content", [b"no tar", b""])
def test_what_is_no_tar(tmp_path, content):
    (tmp_path / "x.tar").write_bytes(content)
    assert "tar" in listed(tmp_path / "x.tar").failures[0].reason


def test_samples_of_a_shard_set(tmp_path):
    shard_set = build_shards(tmp_path)
    listing = listed(shard_set.root)
    assert [item.name for item in listing.inputs] == [f"picture_{i:02d}" for i in range(5)]
    assert len(listed(shard_set.root, split="train").inputs) == 14
    image = open_image(listing.inputs[2].source.read())
    assert image.size == (52, 44)
    assert pickle.loads(pickle.dumps(listing.inputs[2])) == listing.inputs[2]
    assert "has no split 'test'" in listed(shard_set.root, split="test").failures[0].reason


def test_addresses(tmp_path):
    shard_set = build_shards(tmp_path)
    (tmp_path / "shards/p.png?key=secret").write_bytes(png(4))
    server = FaultyServer(Path(shard_set.root))
    try:
        listing = listed(f"{server.url}/p.png?key=secret", f"{server.url}/", f"{server.url}/none/")
        first = listing.inputs[0]
        assert (first.name, first.source.where) == ("p", f"{server.url}/p.png")
        assert np.array_equal(np.array(open_image(first.source.read())), picture(10, 12, 4))
        assert [item.name for item in listing.inputs[1:]] == [f"picture_{i:02d}" for i in range(5)]
        assert open_image(listing.inputs[1].source.read()).size == (52, 44)
        assert "none" in listing.failures[0].reason
    finally:
        server.close()


def test_names_of_addresses_stay_below_the_output():
    urls = ["http://h/%2e%2e/%2e%2e/a.jpg", "http://h/a%2fb%00.jpg", "http://h", "http://h/..%5c..%5cc.jpg?x=/../y"]
    for item in listed(*urls).inputs:
        assert isinstance(item.source, UrlSource)
        assert not {"..", ""} & set(item.name.split("/"))
        assert item.name.isprintable()


def test_control_characters_do_not_reach_a_terminal(tmp_path):
    path = tmp_path / "\x1b[31mred\n.png"
    Image.fromarray(picture(4, 4)).save(path)
    (item,) = listed(path).inputs
    assert item.name == "__31mred_"
    assert "\x1b" not in item.source.where
    assert item.source.read()
    assert printable("a\x07b\udcff\n") == "a\\x07b\\udcff\n"
