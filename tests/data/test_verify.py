from __future__ import annotations

import io
import json
import os
import tarfile
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stego_dist.data import verify as verify_module
from stego_dist.data.manifest import ShardSet
from stego_dist.data.pack import build
from stego_dist.data.plan import BuildOptions
from stego_dist.data.sheet import contact_sheet
from stego_dist.data.verify import verify
from stego_dist.rundir import sha256_file


@pytest.fixture
def shard_set(made, card, tmp_path) -> ShardSet:
    root = made(6)
    made(2, split="val", labels=False)
    return build(card, root, tmp_path / "out", BuildOptions(min_shards=3))


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 255
    path.write_bytes(data)


def edit(shard_set: ShardSet, change) -> ShardSet:
    path = shard_set.root / "manifest.json"
    value = json.loads(path.read_text("utf-8"))
    change(value)
    path.write_text(json.dumps(value), "utf-8")
    return ShardSet.open(shard_set.root)


def test_a_fresh_set_is_whole_in_one_process_and_in_two(shard_set):
    assert verify(shard_set, workers=1) == [] == verify(shard_set, workers=2)
    assert verify(shard_set, decode=1) == []


def test_a_process_that_the_system_kills_is_a_problem_by_name(shard_set, monkeypatch):
    class Killed:
        """A pool whose second task kills its worker; real ones are in test_a_fresh_set…"""

        def __init__(self, *arguments: object) -> None:
            pass

        def __enter__(self):
            return self

        def __exit__(self, *error: object) -> None:
            pass

        def map(self, check, jobs):
            for number, job in enumerate(jobs):
                if number == 1:
                    raise BrokenProcessPool("terminated abruptly")
                yield check(job)

    monkeypatch.setattr(verify_module, "ProcessPoolExecutor", Killed)
    (problem,) = verify(shard_set, workers=2)
    assert problem.startswith(f"{shard_set.root / 'train-00001.tar'}: not checked, nor the 3 shards after it")
    assert "killed" in problem and "--workers 1" in problem


def test_every_flipped_byte_is_found_and_its_file_named(shard_set):
    rng = np.random.default_rng(0)
    for path in sorted(shard_set.root.glob("*.tar")) + sorted(shard_set.root.glob("*.npz")):
        original = path.read_bytes()
        for at in [0, 100, 600, len(original) - 1, *rng.integers(0, len(original), 4)]:
            flip(path, int(at))
            problems = verify(shard_set, workers=1)
            assert problems and all(path.stem.split(".")[0] in problem for problem in problems), (path, at)
            assert any(str(path) in problem for problem in problems)
            path.write_bytes(original)
    assert verify(shard_set, workers=1) == []


@pytest.mark.parametrize("size", [0, 300, 512, 2000])
def test_truncated_tars_and_indices_are_named(shard_set, size):
    os.truncate(shard_set.root / "train-00001.tar", size)
    os.truncate(shard_set.root / "val-00000.index.npz", size // 4)
    problems = verify(shard_set, workers=1)
    assert {"train-00001.tar", "val-00000.index.npz"} <= {Path(p.split(": ")[0]).name for p in problems}
    assert not any("train-00000" in p or "train-00002" in p for p in problems)


def test_missing_files_are_named(shard_set):
    (shard_set.root / "train-00000.tar").unlink()
    (shard_set.root / "train-00002.index.npz").unlink()
    text = "\n".join(verify(shard_set, workers=1))
    assert "train-00000.tar: cannot be read: No such file" in text
    assert "train-00002.index.npz: cannot be read: No such file" in text


def test_an_edited_manifest_is_found(shard_set):
    assert verify(edit(shard_set, lambda m: m["card"]["classes"][0].update(name="heaven")), workers=1) == [
        f"{shard_set.root / 'manifest.json'}: edited after it was written (checksum differs)"
    ]
    wrong = edit(shard_set, lambda m: m["splits"][0]["shards"][1].update(samples=9))
    assert any("train-00001.index.npz: does not hold the manifest's 9" in p for p in verify(wrong, workers=1))
    assert verify(edit(shard_set, lambda m: m["splits"].clear()), workers=1) != []


def repack(shard_set: ShardSet, name: str, data: bytes) -> ShardSet:
    """Replace a member of train-00000 and make every checksum right again: only the content is wrong."""
    path = shard_set.root / "train-00000.tar"
    with tarfile.open(path) as tar:
        members = [(m, tar.extractfile(m).read()) for m in tar]
    arrays = dict(np.load(shard_set.root / "train-00000.index.npz"))
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for info, old in members:
            new = data if info.name == name else old
            key, _, kind = info.name.partition(".")
            row = next(i for i, s in enumerate(arrays["source"]) if int(key[:9]) == s)
            if kind != "json":
                arrays["image" if kind == "jpg" else "label"][row] = tar.offset + 512, len(new)
            info.size = len(new)
            tar.addfile(info, io.BytesIO(new))
    np.savez_compressed(shard_set.root / "train-00000.index.npz", **arrays)

    def change(manifest):
        shard = manifest["splits"][0]["shards"][0]
        shard["sha256"] = sha256_file(path)
        shard["index_sha256"] = sha256_file(shard_set.root / "train-00000.index.npz")

    edited = edit(shard_set, change)
    checksum = edited.manifest.content_digest()
    return edit(edited, lambda manifest: manifest.update(checksum=checksum))


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("member", "data", "complaint"),
    [
        ("000000003_0.jpg", b"", "000000003_0.jpg: not a readable image"),
        ("000000003_0.label.png", b"nothing", "000000003_0.label.png: not a readable label"),
        ("000000003_0.label.png", png(Image.new("L", (5, 4))), "(5, 4), its image (48, 32)"),
        ("000000003_0.label.png", png(Image.new("L", (48, 32), 3)), "ids [3] for 3 classes"),
        ("000000003_0.label.png", png(Image.new("P", (48, 32))), "8-bit ids, this one is P"),
    ],
)
def test_wrong_content_under_right_checksums_is_found(shard_set, member, data, complaint):
    problems = verify(repack(shard_set, member, data), workers=1)
    assert len(problems) == 1 and "train-00000.tar" in problems[0] and complaint in problems[0]


def test_wrong_offsets_under_right_checksums_are_found(shard_set):
    path = shard_set.root / "train-00000.index.npz"
    arrays = dict(np.load(path))
    arrays["image"][1, 0] += 1
    np.savez_compressed(path, **arrays)
    edited = edit(shard_set, lambda m: m["splits"][0]["shards"][0].update(index_sha256=sha256_file(path)))
    problems = verify(edited, workers=1)
    assert any("train-00000.index.npz: 1 wrong places, first 000000003_0.jpg at" in p for p in problems)


def test_contact_sheet_shows_images_labels_and_legend(shard_set, tmp_path):
    contact_sheet(shard_set, "train", tmp_path / "train.png", count=4)
    contact_sheet(shard_set, "val", tmp_path / "val.png")
    train, val = Image.open(tmp_path / "train.png"), Image.open(tmp_path / "val.png")
    assert train.size == (3 * 456 + 8, 2 * 250 + 8 + 26) and val.size == (2 * 232 + 8, 250 + 8)
    pixels = np.asarray(train).reshape(-1, 3)
    for colour in shard_set.palette:
        assert (pixels == colour).all(1).sum() >= 100  # the legend's square
    view, overlay = np.asarray(train)[100:200, 8:232], np.asarray(train)[100:200, 232:456]
    mixed = {tuple(c) for c in overlay.reshape(-1, 3) - view.reshape(-1, 3) // 2}
    assert any(np.abs(np.array(c) - np.array(p) // 2).max() <= 1 for p in shard_set.palette for c in mixed)
