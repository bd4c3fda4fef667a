from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stego_dist.data import pack
from stego_dist.data.card import Card, load_card
from stego_dist.data.manifest import ShardSet
from stego_dist.data.pack import build, finish_build, pack_shard
from stego_dist.data.plan import BuildOptions, plan_build
from stego_dist.errors import ConfigError, StaleInputError, UserError

FEW = BuildOptions(min_shards=2)


def members(shard_set: ShardSet, split: str = "train") -> dict[str, bytes]:
    found = {}
    for shard in shard_set.split(split).shards:
        with tarfile.open(shard_set.tar(shard)) as tar:
            for member in tar:
                file = tar.extractfile(member)
                assert file is not None and (member.mtime, member.uid, member.uname) == (0, 0, "")
                found[member.name] = file.read()
    return found


def hashes(folder: Path) -> dict[str, str]:
    files = (p for p in sorted(folder.rglob("*")) if p.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def test_images_pass_unchanged_and_labels_exactly(made, card, tmp_path):
    root = made(5)
    made(3, split="val", labels=False)
    shard_set = build(card, root, tmp_path / "out", FEW)
    found = members(shard_set)
    assert len(found) == 15
    pixels = np.zeros(256, int)
    for i in range(5):
        key, name = f"{i:09d}_0", f"img {i:02d} é"
        assert found[f"{key}.jpg"] == (root / f"imgs/train/{name}.jpg").read_bytes()
        label = np.asarray(Image.open(io.BytesIO(found[f"{key}.label.png"])))
        np.testing.assert_array_equal(label, np.asarray(Image.open(root / f"labels/train/{name}.png")))
        pixels += np.bincount(label.ravel(), minlength=256)
        meta = json.loads(found[f"{key}.json"])
        assert meta == {"source": name, "crop": 0, "box": [0, 0, 48, 32], "size": [48, 32]}
    train, val = shard_set.split("train"), shard_set.split("val")
    assert train.class_pixels == pixels[:3].tolist() and train.ignored_pixels == pixels[255] == 5
    assert (train.labelled, train.num_images, train.num_samples, [s.samples for s in train.shards]) == (
        True,
        5,
        5,
        [3, 2],
    )
    assert (val.labelled, val.num_samples, val.class_pixels, val.ignored_pixels) == (False, 3, [0, 0, 0], 0)
    assert len(members(shard_set, "val")) == 6
    assert ShardSet.open(tmp_path / "out") == shard_set
    assert shard_set.classes == ["sky", "ground", "tree"] and shard_set.num_classes == 3 == len(shard_set.palette)


def test_members_are_written_as_tarfile_writes_them(tmp_path):
    contents = [(f"{i:09d}_0.label.png", bytes([i % 256]) * size) for i, size in enumerate((0, 1, 511, 512, 513, 9999))]
    places = []
    with tarfile.open(tmp_path / "ours.tar", "w", format=tarfile.USTAR_FORMAT) as ours:
        places = [pack._add(ours, name, data) for name, data in contents]
    with tarfile.open(tmp_path / "theirs.tar", "w", format=tarfile.USTAR_FORMAT) as theirs:
        for name, data in contents:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            theirs.addfile(info, io.BytesIO(data))
    assert (tmp_path / "ours.tar").read_bytes() == (tmp_path / "theirs.tar").read_bytes()
    with tarfile.open(tmp_path / "ours.tar") as tar:
        assert [(member.offset_data, member.size) for member in tar] == places


def test_crops_are_cut_from_image_and_label(made, card, tmp_path):
    root = made(2)
    options = BuildOptions(crops="five", quality=100, min_shards=1)
    shard_set = build(card, root, tmp_path / "out", options, ["train"])
    found = members(shard_set)
    assert shard_set.split("train").num_samples == 10 and shard_set.split("train").num_images == 2
    for i in range(2):
        image = Image.open(root / f"imgs/train/img {i:02d} é.jpg")
        label = Image.open(root / f"labels/train/img {i:02d} é.png")
        for crop in range(5):
            meta = json.loads(found[f"{i:09d}_{crop}.json"])
            jpeg = Image.open(io.BytesIO(found[f"{i:09d}_{crop}.jpg"]))
            assert jpeg.layer == [(1, 1, 1, 0), (2, 1, 1, 1), (3, 1, 1, 1)]  # 4:4:4
            difference = np.asarray(jpeg).astype(int) - np.asarray(image.crop(meta["box"]))
            assert np.abs(difference).max() <= 4
            cut = Image.open(io.BytesIO(found[f"{i:09d}_{crop}.label.png"]))
            np.testing.assert_array_equal(np.asarray(cut), np.asarray(label.crop(meta["box"])))


def test_what_is_not_a_plain_jpeg_is_encoded_upright(made, card, tmp_path):
    root = made(1, labels=False)
    pixels = np.zeros((8, 16, 3), np.uint8)
    pixels[:, :8] = 255
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.fromarray(pixels).save(root / "imgs/train/a turned.jpg", exif=exif)
    Image.fromarray(pixels[..., 0]).save(root / "imgs/train/b grey.jpg")
    Image.fromarray(pixels).save(root / "imgs/train/c.PNG")
    found = members(build(card, root, tmp_path / "out", FEW, ["train"]))
    for i, expected in enumerate((pixels[:, ::-1], pixels, pixels)):
        image = Image.open(io.BytesIO(found[f"{i:09d}_0.jpg"]))
        assert (image.format, image.mode, image.getexif().get(0x0112)) == ("JPEG", "RGB", None)
        assert np.abs(np.asarray(image).astype(int) - expected).max() < 10


def test_same_input_same_bytes_wherever_it_lies(made, card, tmp_path):
    root = made(7)
    options = BuildOptions(crops="random", min_shards=3)
    build(card, root, tmp_path / "a", options, ["train"])
    shutil.copytree(root, tmp_path / "moved", copy_function=shutil.copy2)
    backwards = lambda fn, tasks: [fn(pickle.loads(pickle.dumps(t))) for t in reversed(tasks)]  # noqa: E731
    build(card, tmp_path / "moved", tmp_path / "b", options, ["train"], backwards)
    assert hashes(tmp_path / "a") == hashes(tmp_path / "b")
    build(card, root, tmp_path / "c", BuildOptions(crops="random", min_shards=3, seed=1), ["train"])
    assert (
        ShardSet.open(tmp_path / "a").split("train").fingerprint
        == ShardSet.open(tmp_path / "b").split("train").fingerprint
    )
    assert (
        ShardSet.open(tmp_path / "a").split("train").fingerprint
        != ShardSet.open(tmp_path / "c").split("train").fingerprint
    )


def test_plan_deals_every_image_to_one_shard(made, card, tmp_path):
    root = made(10, labels=False)
    plan = plan_build(card, root, tmp_path / "out", BuildOptions(min_shards=4), ["train"])
    dealt = [[number for number, _ in task.sources] for task in plan.tasks]
    assert dealt == [[0, 4, 8], [1, 5, 9], [2, 6], [3, 7]]
    assert plan.num_images == 10 and not (tmp_path / "out").exists()
    assert len(plan_build(card, root, tmp_path / "out", BuildOptions(), ["train"]).tasks) == 10
    files = sum(path.stat().st_size for path in (root / "imgs/train").iterdir())
    for count in (2, 4, 7):  # a sample takes its file, two headers, a block of JSON and half a block of padding
        small = BuildOptions(min_shards=1, shard_bytes=(files + 10 * 1792) // count + 1)
        assert len(plan_build(card, root, tmp_path / "out", small, ["train"]).tasks) == count
    assert len(plan_build(card, root, tmp_path / "out", BuildOptions(min_shards=1), ["train"]).tasks) == 1


def test_an_interrupted_build_leaves_no_half_shard_and_goes_on(made, card, tmp_path, monkeypatch):
    root, out = made(6), tmp_path / "out"
    options = BuildOptions(min_shards=3)
    build(card, root, tmp_path / "whole", options, ["train"])
    cut_image, calls = pack.cut_image, []

    def die(source, *rest):
        calls.append(source.key)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return cut_image(source, *rest)

    monkeypatch.setattr(pack, "cut_image", die)
    with pytest.raises(KeyboardInterrupt):
        build(card, root, out, options, ["train"])
    assert sorted(hashes(out)) == ["parts/train-00000.json", "train-00000.index.npz", "train-00000.tar"]
    with pytest.raises(UserError, match="stego-dist shards build"):
        ShardSet.open(out)
    (out / ".train-00001.tar.0123abcd.tmp").write_bytes(b"of a builder that was killed outright")
    (out / ".mine.tmp").write_bytes(b"somebody else's")
    before = (out / "train-00000.tar").stat().st_ino
    build(card, root, out, options, ["train"])
    assert len(calls) == 4 + 4  # the first shard's two images were not read again
    assert (out / "train-00000.tar").stat().st_ino == before
    (out / ".mine.tmp").unlink()
    assert hashes(out) == hashes(tmp_path / "whole")


@pytest.mark.parametrize("lost", ["train-00001.tar", "train-00001.index.npz", "parts/train-00001.json"])
def test_a_lost_or_cut_file_is_written_again(made, card, tmp_path, lost):
    root, out = made(4), tmp_path / "out"
    build(card, root, out, FEW, ["train"])
    before = hashes(out)
    (out / lost).unlink()
    build(card, root, out, FEW, ["train"])
    assert hashes(out) == before
    if lost.endswith(".tar"):
        os.truncate(out / lost, 1000)
        build(card, root, out, FEW, ["train"])
        assert hashes(out) == before


def test_stale_shards_are_refused_by_name_until_overwrite(made, card, tmp_path):
    root, out = made(4), tmp_path / "out"
    build(card, root, out, FEW, ["train"])
    with pytest.raises(
        StaleInputError, match=r"(?s)shard train-00000.*quality: made with 95, now 80.*--overwrite.*--out"
    ):
        build(card, root, out, BuildOptions(min_shards=2, quality=80), ["train"])
    with pytest.raises(StaleInputError, match="num_classes: made with 3, now 4"):
        build(card.with_classes(["a", "b", "c", "d"], "test"), root, out, FEW, ["train"])
    renamed = card.with_classes(["a", "b", "c"], "test")  # names are the manifest's, not the shards'
    assert build(renamed, root, out, FEW, ["train"]).classes == ["a", "b", "c"]
    Image.new("RGB", (48, 32)).save(root / "imgs/train/img 03 é.jpg")
    with pytest.raises(StaleInputError, match=r"(?s)shard train-00001.*listing"):
        build(card, root, out, FEW, ["train"])
    (out / "notes.txt").write_text("mine")
    shard_set = build(card, root, out, BuildOptions(min_shards=1), ["train"], overwrite=True)
    assert [s.name for s in shard_set.split("train").shards] == ["train-00000"]
    assert not (out / "train-00001.tar").exists() and (out / "notes.txt").exists()


def test_overwrite_removes_nothing_when_the_new_plan_fails(made, card, tmp_path):
    root, out = made(4), tmp_path / "out"
    build(card, root, out, FEW, ["train"])
    before = hashes(out)
    with pytest.raises(UserError, match="imgs/val does not exist"):
        build(card, root, out, FEW, overwrite=True)
    assert hashes(out) == before


def test_a_label_map_survives_the_records_json(made, card, tmp_path):
    mapped = card.model_copy(update={"label_map": {0: 2, 1: 1, 2: 0}})
    root = made(3)
    first = build(mapped, root, tmp_path / "out", FEW, ["train"])
    plain = build(card, root, tmp_path / "plain", FEW, ["train"])
    assert first.split("train").class_pixels == plain.split("train").class_pixels[::-1]
    assert build(mapped, root, tmp_path / "out", FEW, ["train"]) == first  # nothing is stale
    with pytest.raises(StaleInputError, match="label_map: made with"):
        build(card, root, tmp_path / "out", FEW, ["train"])


def test_another_split_may_not_drop_the_first(made, card, tmp_path):
    root, out = made(3), tmp_path / "out"
    made(2, split="val")
    build(card, root, out, FEW, ["train"])
    with pytest.raises(UserError, match="also holds split train"):
        build(card, root, out, FEW, ["val"])
    assert build(card, root, out, FEW, ["train", "val"]).splits == ["train", "val"]


def broken(root: Path) -> None:
    (root / "imgs/train/img 00 é.jpg").write_bytes(b"")
    path = root / "imgs/train/img 01 é.jpg"
    path.write_bytes(path.read_bytes()[:300])
    Image.new("L", (48, 32), 9).save(root / "labels/train/img 02 é.png")
    Image.new("L", (32, 48)).save(root / "labels/train/img 03 é.png")
    (root / "imgs/train/img 04 é.jpg").unlink()
    (root / "imgs/train/img 04 é.jpg").symlink_to(root / "gone.jpg")


def test_a_bad_file_fails_by_name(made, card, tmp_path):
    root = made(8)
    broken(root)
    with pytest.raises(UserError, match=r"(?s)shard train-00000: .*img 00 é\.jpg: the file is empty.*--on-error skip"):
        build(card, root, tmp_path / "out", FEW, ["train"])
    assert not list((tmp_path / "out").glob("*.tar"))


def test_bad_files_can_be_skipped_and_are_counted_and_listed(made, card, tmp_path, capsys):
    root, out = made(8), tmp_path / "out"
    broken(root)
    (root / "labels/train/img 05 é.png").unlink()
    skip = BuildOptions(min_shards=3, on_error="skip")
    train = build(card, root, out, skip, ["train"]).split("train")
    assert (train.num_images, train.num_samples, train.rejected) == (2, 2, 6)
    assert [s.samples for s in train.shards] == [1, 1]  # the third shard is empty, and not listed
    rows = [json.loads(line) for line in (out / "rejected.jsonl").read_text("utf-8").splitlines()]
    causes = {Path(row["file"]).name[4:6]: row["cause"] for row in rows}
    expected = {
        "00": "empty",
        "01": "not a readable",
        "02": r"ids [9]",
        "03": "32×48",
        "04": "No such file",
        "05": "no label",
    }
    assert causes.keys() == expected.keys()
    assert all(text in causes[key] for key, text in expected.items()), causes
    assert "6 images were left out" in capsys.readouterr().err
    with pytest.raises(UserError, match="1 of 8 images have no label"):  # what was skipped is not taken for done
        build(card, root, out, BuildOptions(min_shards=3), ["train"])


def test_a_split_of_nothing_but_bad_files_fails(made, card, tmp_path):
    root = made(2, labels=False)
    for path in (root / "imgs/train").iterdir():
        path.write_bytes(b"no image")
    with pytest.raises(UserError, match=r"split train has no samples: all 2 images were rejected; the first: .*img 00"):
        build(card, root, tmp_path / "out", BuildOptions(on_error="skip"), ["train"])
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_classes_are_read_or_counted(made, card, tmp_path):
    root = made(4)
    without = card.model_copy(update={"classes": None})
    counted = build(without, root, tmp_path / "a", FEW, ["train"])
    assert counted.classes == ["class_0", "class_1", "class_2"]
    assert len(counted.split("train").class_pixels) == 3 and sum(counted.split("train").class_pixels) == 4 * 48 * 32 - 4
    (root / "classes.yaml").write_text("[a, b, {name: c, colour: [1, 2, 3]}, d]")
    read = build(without, root, tmp_path / "b", FEW, ["train"])
    assert read.classes == ["a", "b", "c", "d"] and read.palette[2] == (1, 2, 3)
    assert read.split("train").class_pixels[3] == 0
    shutil.rmtree(root / "labels")
    (root / "classes.yaml").unlink()
    unlabelled = build(without, root, tmp_path / "c", FEW, ["train"])
    assert unlabelled.num_classes is None and unlabelled.split("train").class_pixels == []


def test_an_incomplete_copy_is_a_warning(made, card, tmp_path, capsys):
    expecting = card.model_copy(update={"expected": {"train": 9}})
    build(expecting, made(2), tmp_path / "out", FEW, ["train"])
    assert "has 2 images" in (text := " ".join(capsys.readouterr().err.split())) and "expected 9" in text


def test_missing_source_and_wrong_options(card, tmp_path):
    with pytest.raises(UserError, match="nowhere does not exist"):
        plan_build(card, tmp_path / "nowhere", tmp_path, FEW)
    for wrong in ({"ratio": 0.0}, {"quality": 101}, {"shard_bytes": 0}, {"min_shards": 0}, {"max_side": 0}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            BuildOptions(**wrong)


def test_a_manifest_of_another_kind_is_refused(made, card, tmp_path):
    shard_set = build(card, made(2), tmp_path / "out", FEW, ["train"])
    path = tmp_path / "out" / "manifest.json"
    value = json.loads(path.read_text("utf-8"))
    with pytest.raises(UserError, match="no split 'test'; it has train"):
        shard_set.split("test")
    for change, complaint in (
        ({"format": "stego_dist.shards/9"}, r"shards/9.*reads 'stego_dist.shards/1'"),
        ({"splits": [{"name": "train"}]}, r"(?s)damaged:.*splits\.0\.shards"),
    ):
        path.write_text(json.dumps({**value, **change}))
        with pytest.raises(UserError, match=complaint):
            ShardSet.open(tmp_path / "out")
    path.write_text("{")
    with pytest.raises(UserError, match="shard set is damaged"):
        ShardSet.open(tmp_path / "out")


def test_camvid_shard(shared, tmp_path):
    card = load_card("camvid11")
    plan = plan_build(card, shared / "data" / "camvid", tmp_path, BuildOptions(shard_bytes=2**18), ["val"])
    record = pack_shard(plan.tasks[0])
    assert record["samples"] == len(plan.tasks[0].sources) > 1
    assert sum(record["pixels"]) == record["samples"] * 480 * 360
    assert record["pixels"][11:255] == [0] * 244 and min(record["pixels"][:2]) > 0
    with pytest.raises(KeyError):
        finish_build(plan, [record])  # the others are not there


def test_card_is_stored_whole(made, tmp_path):
    card = Card(name="x", title="X", images="imgs/{split}", splits={"all": "train"}, licence="free", where="here")
    shard_set = build(card, made(2, labels=False), tmp_path / "out", FEW)
    assert ShardSet.open(tmp_path / "out").manifest.card == card
    assert shard_set.splits == ["all"]
