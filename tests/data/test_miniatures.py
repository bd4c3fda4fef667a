"""Every card against a small copy of its data set: every id, pixel by pixel, through the real builder.

What the cards say is stated here once more, in numbers of its own.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from stego_dist.data import encodings
from stego_dist.data.card import Card, list_cards, load_card
from stego_dist.data.manifest import ShardSet
from stego_dist.data.pack import build, pack_shard
from stego_dist.data.plan import BuildOptions, plan_build
from stego_dist.data.samples import ShardSamples
from stego_dist.data.tiles import Tiling
from stego_dist.data.transforms import label_view
from stego_dist.data.verify import verify
from stego_dist.errors import ConfigError, StaleInputError, UserError
from tests.conftest import REPO
from tests.data import miniatures
from tests.data.miniatures import MINIATURES, Miniature, write_list

# fmt: off
COARSE = [
    9, *[11] * 8, *[8] * 6, *[7] * 10, *[6] * 8, *[10] * 10, *[5] * 8,
    *[2] * 10, *[3] * 10, *[0] * 6, *[1] * 6, *[4] * 8,
    17, 17, 22, 20, 20, 22, 15, 25, 16, 13, 12, 12, 17, 17, 23, 15, 15, 17, 15, 21, 15, 25, 13, 13, 13, 13, 13, 22, 26,
    14, 14, 15, 22, 21, 21, 24, 20, 22, 15, 17, 16, 15, 22, 24, 21, 17, 25, 16, 21, 17, 22, 16, 21, 21, 25, 21, 26, 21,
    24, 20, 17, 14, 21, 26, 15, 23, 20, 21, 24, 15, 24, 22, 25, 15, 20, 17, 17, 22, 14, 18, 18, 18, 18, 18, 18, 18, 26,
    26, 19, 19, 24,
]  # COCO-Stuff's 182 ids → 27
NAMES27 = [
    "electronic", "appliance", "food", "furniture", "indoor", "kitchen", "accessory", "animal", "outdoor", "person",
    "sports", "vehicle", "ceiling-stuff", "floor-stuff", "food-stuff", "furniture-stuff", "raw-material-stuff",
    "textile-stuff", "wall-stuff", "window-stuff", "building-stuff", "ground-stuff", "plant-stuff", "sky-stuff",
    "solid-stuff", "structural-stuff", "water-stuff",
]
CITY27 = [
    "road", "sidewalk", "parking", "rail track", "building", "wall", "fence", "guard rail", "bridge", "tunnel", "pole",
    "polegroup", "traffic light", "traffic sign", "vegetation", "terrain", "sky", "person", "rider", "car", "truck",
    "bus", "caravan", "trailer", "train", "motorcycle", "bicycle",
]
CITY19 = [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33]
VOC21 = [
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable",
    "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
]
UNUSED = [11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90]
# fmt: on
POTSDAM = {0: 0, 4: 0, 1: 1, 5: 1, 2: 2, 3: 2}
POTSDAM_NAMES = ["roads and cars", "buildings and clutter", "trees and vegetation"]
USED = [i for i in range(182) if i not in UNUSED]
EXPECTED: dict[str, tuple[dict[int, int], list[str] | None]] = {
    "camvid11": ({i: i for i in range(11)}, None),
    "cityscapes19": ({raw: i for i, raw in enumerate(CITY19)}, [CITY27[raw - 7] for raw in CITY19]),
    "cityscapes27": ({raw: raw - 7 for raw in range(7, 34)}, CITY27),
    "cocostuff15": ({raw: c - 12 for raw, c in enumerate(COARSE) if c >= 12}, NAMES27[12:]),
    "cocostuff171": ({raw: i for i, raw in enumerate(USED)}, None),
    "cocostuff27": (dict(enumerate(COARSE)), NAMES27),
    "cocostuff3": (
        {raw: {23: 0, 22: 1, 21: 2}[c] for raw, c in enumerate(COARSE) if c in (21, 22, 23)},
        ["sky-stuff", "plant-stuff", "ground-stuff"],
    ),
    "folder": ({i: i for i in range(5)}, [f"class_{i}" for i in range(5)]),
    "potsdam3": (POTSDAM, POTSDAM_NAMES),
    "potsdam3_raw": (POTSDAM, POTSDAM_NAMES),
    "voc21": ({i: i for i in range(21)}, VOC21),
}
"""Raw id → class id, all else ignored; class names."""
LISTED = {
    "cocostuff27": {"train": 4, "val": 3},
    "cocostuff15": {"train": 3, "val": 3},
    "cocostuff3": {"train": 2, "val": 2},
}
"""How many of the miniature's images, from the last, the card's lists name."""
FEW = BuildOptions(min_shards=2)


def classes_of(raw: np.ndarray, label_map: dict[int, int]) -> np.ndarray:
    table = np.full(256, 255)
    table[list(label_map)] = list(label_map.values())
    return table[raw]


def cut(pixels: np.ndarray, raw: np.ndarray | None, side: int = 200) -> dict[str, tuple[np.ndarray, np.ndarray | None]]:
    """Potsdam's way to tiles: halve, then cut."""
    height, width, _ = pixels.shape
    half = pixels.reshape(height // 2, 2, width // 2, 2, 3).mean((1, 3))
    return {
        f"_{y}_{x}": (
            half[y * side : (y + 1) * side, x * side : (x + 1) * side],
            None if raw is None else raw[::2, ::2][y * side : (y + 1) * side, x * side : (x + 1) * side],
        )
        for y in range(height // 2 // side)
        for x in range(width // 2 // side)
    }


def written(card: str, mini: Miniature, split: str) -> dict[str, tuple[np.ndarray, np.ndarray | None]]:
    """What the split should hold: key → pixels, raw ids."""
    samples: dict[str, Any] = dict(mini.samples[split])
    if card in LISTED:
        samples = dict(list(samples.items())[-LISTED[card][split] :])
    if card == "potsdam3_raw":
        samples = {key + end: tile for key, whole in samples.items() for end, tile in cut(*whole).items()}
    return samples


def check(shard_set: ShardSet, split: str, expected: dict[str, Any], label_map: dict[int, int]) -> None:
    samples = ShardSamples(shard_set, split)
    assert sorted(samples.name(i) for i in range(len(samples))) == sorted(expected)
    pixels = np.zeros(256, int)
    for i in range(len(samples)):
        image, raw = expected[samples.name(i)]
        decoded = np.asarray(Image.open(io.BytesIO(samples.image_bytes(i))))
        assert decoded.shape == image.shape
        assert np.abs(decoded.astype(float) - image).max() <= 4  # JPEG of a smooth image; channels are 11 apart
        view, label = samples.view(i, 12, "nearest")
        assert view.shape == (3, 12, 12)
        if not samples.split.labelled:
            assert samples.label_bytes(i) is None and label is None
            continue
        wanted = np.full(image.shape[:2], 255) if raw is None else classes_of(raw, label_map)
        stored = np.asarray(Image.open(io.BytesIO(samples.label_bytes(i) or b"")))
        np.testing.assert_array_equal(stored, wanted)
        assert label is not None and torch.equal(label, label_view(wanted.astype(np.uint8), 12))
        pixels += np.bincount(wanted.ravel(), minlength=256)
    split_record = shard_set.split(split)
    assert split_record.class_pixels == pixels[: len(shard_set.classes)].tolist()
    assert split_record.ignored_pixels == pixels[255]
    assert not split_record.labelled or min(split_record.class_pixels) > 0  # every class was met


def test_every_card_has_a_miniature():
    assert set(MINIATURES) == set(EXPECTED) == {path.stem for path in (REPO / "shards").glob("*.yaml")}
    assert set(EXPECTED) <= set(list_cards())


@pytest.mark.parametrize("name", sorted(MINIATURES))
def test_every_id_pixel_by_pixel(name, tmp_path, capsys):
    mini = MINIATURES[name](tmp_path / "raw")
    card = load_card(name)
    shard_set = build(card, mini.root, tmp_path / "out", FEW)
    label_map, names = EXPECTED[name]
    assert shard_set.splits == ["train", "val"]
    for split in shard_set.splits:
        check(shard_set, split, written(name, mini, split), label_map)
    assert names is None or shard_set.classes == names
    assert len(shard_set.palette) == len(shard_set.classes) == len(set(label_map.values()))
    assert not verify(shard_set)
    assert ShardSet.open(tmp_path / "out").manifest.card == shard_set.manifest.card
    text = capsys.readouterr().err
    for split, count in (card.expected or {}).items():
        assert (f"split {split} of {name} has" in text and f"expected {count}" in text) == (split in shard_set.splits)


@pytest.mark.parametrize("name", ["cocostuff27", "cityscapes27", "voc21", "camvid11", "folder"])
def test_what_was_a_jpeg_passes_unchanged(name, tmp_path):
    mini = MINIATURES[name](tmp_path / "raw")
    samples = ShardSamples(build(load_card(name), mini.root, tmp_path / "out", FEW, ["val"]), "val")
    files = {path.stem: path.read_bytes() for path in mini.root.rglob("*.jpg")}
    for i in range(len(samples)):
        assert not files or samples.image_bytes(i) == files[samples.name(i)]


def test_camvids_and_cocostuffs_names():
    assert [c.name for c in load_card("camvid11").classes or []][9:] == ["pedestrian", "bicyclist"]
    names = [c.name for c in load_card("cocostuff171").classes or []]
    assert len(set(names)) == 171
    at = {raw: names[i] for i, raw in enumerate(USED)}
    assert (at[0], at[1], at[10], at[12], at[30], at[89]) == (
        "person", "bicycle", "fire hydrant", "stop sign", "handbag", "toothbrush",
    )  # fmt: skip
    assert (at[91], at[105], at[123], at[156], at[168], at[181]) == (
        "banner", "clouds", "grass", "sky-other", "tree", "wood",
    )  # fmt: skip
    # stuff names tell their coarse class
    for raw, coarse in enumerate(COARSE):
        for word in ("ceiling", "floor", "wall", "window"):
            if raw in at and at[raw].startswith(f"{word}-"):
                assert NAMES27[coarse] == f"{word}-stuff"


# COCO-Stuff: lists


def keys_of(shard_set: ShardSet, split: str) -> set[str]:
    samples = ShardSamples(shard_set, split)
    return {samples.name(i) for i in range(len(samples))}


def test_lists_elsewhere(tmp_path):
    mini = miniatures.cocostuff(tmp_path / "raw")
    (mini.root / "curated").rename(tmp_path / "lists")
    card = load_card("cocostuff27")
    shard_set = build(card, mini.root, tmp_path / "a", FEW, lists=tmp_path / "lists")
    assert [shard_set.split(s).num_images for s in ("train", "val")] == [4, 3]
    only = write_list(tmp_path / "mine/curated/val2017/Coco164kFull_Stuff_Coarse_7.txt", list(mini.samples["val"])[:1])
    shard_set = build(card, mini.root, tmp_path / "b", FEW, ["val"], lists=only.parents[2])
    assert keys_of(shard_set, "val") == {next(iter(mini.samples["val"]))}
    with pytest.raises(UserError, match=r"split train: the list of its images is missing: .*mine/curated/train2017"):
        build(card, mini.root, tmp_path / "c", FEW, lists=tmp_path / "mine")
    with pytest.raises(ConfigError, match="cocostuff171 reads no lists"):
        build(load_card("cocostuff171"), mini.root, tmp_path / "d", FEW, lists=tmp_path / "lists")


def test_without_lists_all_images_are_taken_and_it_is_said(tmp_path, capsys):
    mini = miniatures.cocostuff(tmp_path / "raw")
    (mini.root / "curated").rename(tmp_path / "away")
    shard_set = build(load_card("cocostuff3"), mini.root, tmp_path / "out", FEW)
    assert keys_of(shard_set, "train") == set(mini.samples["train"])
    text = capsys.readouterr().err
    assert text.count("cannot be compared with published") == 2 and "train2017/Coco164kFew_Stuff_6.txt" in text


def test_a_listed_image_that_is_missing_is_named_or_left_out(tmp_path, capsys):
    mini = miniatures.cocostuff(tmp_path / "raw")
    key = [*mini.samples["val"]][-1]
    (mini.root / f"images/val2017/{key}.jpg").unlink()
    card = load_card("cocostuff27")
    with pytest.raises(UserError, match=rf"split val in .*: 1 of 3 listed images are not there: {key}"):
        build(card, mini.root, tmp_path / "out", FEW)
    skipping = BuildOptions(min_shards=2, on_error="skip")
    assert build(card, mini.root, tmp_path / "out", skipping).split("val").num_images == 2
    assert "1 of 3 listed images" in capsys.readouterr().err


def test_only_listed_images_need_labels(tmp_path):
    mini = miniatures.cocostuff(tmp_path / "raw")
    first = next(iter(mini.samples["train"]))
    (mini.root / f"annotations/train2017/{first}.png").unlink()
    assert build(load_card("cocostuff27"), mini.root, tmp_path / "out", FEW).split("train").num_images == 4


# VOC


def test_voc_needs_its_lists_and_builds_trainval_by_name(tmp_path):
    mini = miniatures.voc(tmp_path / "raw")
    card = load_card("voc21")
    shard_set = build(card, mini.root, tmp_path / "a", FEW, ["trainval"])
    check(shard_set, "trainval", mini.samples["trainval"], EXPECTED["voc21"][0])
    assert shard_set.palette[:4] == [(0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0)]
    assert shard_set.palette[-2:] == [(128, 192, 0), (0, 64, 128)]
    (mini.root / "ImageSets/Segmentation/val.txt").unlink()
    with pytest.raises(UserError, match=r"split val: the list of its images is missing: .*val\.txt"):
        build(card, mini.root, tmp_path / "b", FEW)


# Potsdam, published tiles


def test_potsdams_unlabelled_tiles_are_ignored_or_without_labels(tmp_path):
    mini = miniatures.potsdam(tmp_path / "raw")
    splits = ["all", "unlabelled_train"]
    shard_set = build(load_card("potsdam3"), mini.root, tmp_path / "out", FEW, splits)
    for split in splits:
        check(shard_set, split, mini.samples[split], POTSDAM)
    assert shard_set.split("all").ignored_pixels > 2 * 200 * 200
    assert shard_set.split("all").labelled and not shard_set.split("unlabelled_train").labelled


def test_a_damaged_tile_is_named_with_its_shard(tmp_path):
    mini = miniatures.potsdam(tmp_path / "raw")
    path = mini.root / "gt/8549.mat"
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(UserError, match=r"shard train-0000\d: .*gt/8549\.mat: not a readable \.mat"):
        build(load_card("potsdam3"), mini.root, tmp_path / "out", FEW)
    skipping = BuildOptions(min_shards=2, on_error="skip")
    assert build(load_card("potsdam3"), mini.root, tmp_path / "out", skipping).split("train").rejected == 1


# Potsdam, raw images


@pytest.mark.parametrize("extra", [0, 1, 2])
def test_tiles_of_any_size_and_overlap(tmp_path, extra):
    mini = miniatures.potsdam_raw(tmp_path / "raw", {"train": ("2_10",)}, (150, 100), extra)
    card = load_card("potsdam3_raw").model_copy(update={"tile": Tiling(size=64, overlap=16)})
    shard_set = build(card, mini.root, tmp_path / "out", FEW, ["train"])
    pixels, raw = mini.samples["train"]["potsdam_2_10"]
    assert raw is not None
    # steps of 64 − 16 = 48; the last tiles end with the image: 150 − 64 = 86, 100 − 64 = 36
    expected = {
        f"potsdam_2_10_{row}_{column}": (pixels[y : y + 64, x : x + 64], raw[y : y + 64, x : x + 64])
        for row, y in enumerate((0, 36))
        for column, x in enumerate((0, 48, 86))
    }
    check(shard_set, "train", expected, POTSDAM)


def test_tiles_do_not_count_their_image_over_and_over(tmp_path):
    mini = miniatures.potsdam_raw(tmp_path / "raw", {"train": ("2_10",)}, (800, 800))
    card = load_card("potsdam3_raw").model_copy(update={"tile": Tiling(size=20)})
    plan = plan_build(card, mini.root, tmp_path / "out", BuildOptions(shard_bytes=2**20), ["train"])
    assert plan.num_images == 40 * 40
    assert len(plan.tasks) <= 16 and plan.estimated_bytes < 16 * 2**20  # the files' sizes times 1,600 are 5 GB


def test_an_image_is_decoded_once_for_its_tiles_in_a_shard(tmp_path, monkeypatch):
    mini = miniatures.potsdam_raw(tmp_path / "raw", {"train": ("2_1", "2_10", "2_10_3")}, (100, 100))
    change = {"tile": Tiling(size=10), "lists": {}, "splits": {"train": "x"}, "expected": None}
    card = load_card("potsdam3_raw").model_copy(update=change)
    calls: list[str] = []
    opened = encodings.open_image
    plan = plan_build(card, mini.root, tmp_path / "out", BuildOptions(min_shards=3))
    monkeypatch.setattr(encodings, "open_image", lambda path, **more: calls.append(path.name) or opened(path, **more))
    for task in plan.tasks:
        pack_shard(task)
    assert len(calls) == 3 * 3


def test_a_part_of_the_raw_images_will_do(tmp_path, capsys):
    mini = miniatures.potsdam_raw(tmp_path / "raw", {"train": ("2_10",)}, (400, 400))
    assert build(load_card("potsdam3_raw"), mini.root, tmp_path / "out", FEW, ["train"]).split("train").num_images == 1
    assert "23 of 24 listed images are not there: potsdam_2_11" in capsys.readouterr().err
    with pytest.raises(UserError, match="split val .*14 of 14 listed"):
        build(load_card("potsdam3_raw"), mini.root, tmp_path / "b", FEW)


def test_a_wrong_colour_names_file_colour_and_count_and_costs_its_tile_only(tmp_path):
    mini = miniatures.potsdam_raw(tmp_path / "raw", {"train": ("4_12",)}, (800, 400))
    path = mini.root / "5_Labels_all/top_potsdam_4_12_label.tif"
    pixels = np.array(Image.open(path))
    pixels[:3, -5:] = 252, 255, 0
    Image.fromarray(pixels).save(path)
    card = load_card("potsdam3_raw")
    with pytest.raises(UserError, match=r"top_potsdam_4_12_label\.tif: colours .*\(252, 255, 0\) in 15 pixels"):
        build(card, mini.root, tmp_path / "out", FEW, ["train"])
    shard_set = build(card, mini.root, tmp_path / "b", BuildOptions(min_shards=1, on_error="skip"), ["train"])
    assert keys_of(shard_set, "train") == {"potsdam_4_12_0_0"}


def test_an_unreadable_raw_image_is_named_or_rejected(tmp_path):
    mini = miniatures.potsdam_raw(tmp_path / "raw", {"train": ("2_10", "2_11")}, (400, 400))
    path = mini.root / "2_Ortho_RGBIR/top_potsdam_2_11_RGBIR.tif"
    path.write_bytes(b"II*\0 cut")
    with pytest.raises(UserError, match=r"top_potsdam_2_11_RGBIR\.tif: not a readable image"):
        build(load_card("potsdam3_raw"), mini.root, tmp_path / "out", FEW, ["train"])
    skipping = BuildOptions(min_shards=1, on_error="skip")
    train = build(load_card("potsdam3_raw"), mini.root, tmp_path / "out", skipping, ["train"]).split("train")
    assert (train.num_images, train.rejected) == (1, 1)


def test_other_tiles_or_colours_make_shards_stale(tmp_path):
    mini = miniatures.potsdam_raw(tmp_path / "raw", {"train": ("2_10",)}, (400, 400))
    card = load_card("potsdam3_raw")
    first = build(card, mini.root, tmp_path / "out", FEW, ["train"])
    assert build(card, mini.root, tmp_path / "out", FEW, ["train"]) == first
    swapped = {**(card.label_colours or {}), 0: (0, 0, 255), 1: (255, 255, 255)}
    for change in ({"tile": Tiling(size=200)}, {"label_colours": swapped}, {"channels": 3}):
        with pytest.raises(StaleInputError, match="encoding: made with"):
            build(card.model_copy(update=change), mini.root, tmp_path / "out", FEW, ["train"])


# Cityscapes, folder


def test_cityscapes_reads_no_other_file_of_an_image(tmp_path):
    plan = plan_build(load_card("cityscapes27"), miniatures.cityscapes(tmp_path).root, tmp_path / "out", FEW)
    sources = [source for task in plan.tasks for _, source in task.sources]
    assert len(sources) == 6
    for source in sources:
        assert source.image.name == f"{Path(source.key).name}_leftImg8bit.png"
        assert source.label is not None and source.label.name == f"{Path(source.key).name}_gtFine_labelIds.png"
        assert source.image.parent.name == source.label.parent.name == source.key.split("/")[0]


def test_an_image_whose_label_has_another_name_is_reported_with_the_name_that_was_sought(tmp_path):
    mini = miniatures.cityscapes(tmp_path / "raw")
    label = next(mini.root.glob("gtFine/val/*/*_labelIds.png"))
    label.rename(label.with_name(label.name.replace("labelIds", "labelTrainIds")))
    with pytest.raises(UserError, match=r"1 of 2 images have no label .*\{key\}_gtFine_labelIds with"):
        build(load_card("cityscapes27"), mini.root, tmp_path / "out", FEW)


def test_a_folder_without_labels(tmp_path):
    mini = miniatures.folder(tmp_path / "raw", labels=False)
    shard_set = build(load_card("folder"), mini.root, tmp_path / "out", FEW)
    for split in ("train", "val"):
        check(shard_set, split, mini.samples[split], {})
    assert shard_set.num_classes is None


def test_a_folder_can_be_cut_into_tiles(tmp_path):
    mini = miniatures.folder(tmp_path / "raw")
    card = load_card("folder").model_copy(update={"tile": Tiling(size=6)})
    shard_set = build(card, mini.root, tmp_path / "out", FEW, ["val"])
    expected = {
        f"{key}_{y}_{x}": tuple(a[6 * y : 6 * y + 6, 6 * x : 6 * x + 6] for a in both)
        for key, both in mini.samples["val"].items()
        for y in range(3)
        for x in range(4)
    }
    check(shard_set, "val", expected, {i: i for i in range(5)})


# the source of the label maps, where it is there


@pytest.fixture(scope="module")
def labelmaps() -> dict[str, Any]:
    path = REPO.parent / "shared" / "labelmaps"
    if not path.is_dir():
        pytest.skip("the label maps' source (../shared/labelmaps) is not beside this checkout")
    return {file.stem: yaml.safe_load(file.read_text("utf-8")) for file in path.glob("*.yaml")}


def palette(card: Card) -> list[tuple[str, tuple[int, ...]]]:
    return [(c.name, c.colour) for c in card.classes or []]


def test_cards_are_what_the_label_maps_say(labelmaps):
    coco, city, potsdam = labelmaps["cocostuff"], labelmaps["cityscapes"], labelmaps["potsdam"]
    coarse = {fine: c for c, ids in coco["fine_to_coarse"].items() for fine in ids}
    cards = {name: load_card(name) for name in EXPECTED}
    assert cards["cocostuff27"].label_map == coarse and len(coarse) == 182
    assert [name for name, _ in palette(cards["cocostuff27"])] == coco["names27"]
    stuff = {fine: c - coco["first_stuff"] for fine, c in coarse.items() if c >= coco["first_stuff"]}
    assert cards["cocostuff15"].label_map == stuff
    assert cards["cocostuff171"].ignored == coco["unused_ids"]
    assert set(cards["cocostuff3"].label_map or {}) == {
        f for f, c in coarse.items() if c in coco["cocostuff3"].values()
    }
    assert palette(cards["cityscapes27"]) == [(c["name"], tuple(c["colour"])) for c in city["classes"]]
    assert cards["cityscapes27"].label_map == {c["label_id"]: c["id"] for c in city["classes"]}
    assert list(cards["cityscapes19"].label_map or {}) == city["eval19"]
    by_id = {c["label_id"]: (c["name"], tuple(c["colour"])) for c in city["classes"]}
    assert palette(cards["cityscapes19"]) == [by_id[i] for i in city["eval19"]]
    groups = {name: set(ids) for name, ids in potsdam["potsdam3"].items()}
    for card in (cards["potsdam3"], cards["potsdam3_raw"]):
        found = {
            name: {r for r, c in (card.label_map or {}).items() if c == i} for i, (name, _) in enumerate(palette(card))
        }
        assert found == groups
    colours = {c["id"]: tuple(c["colour"]) for c in potsdam["classes6"]}
    assert cards["potsdam3_raw"].label_colours == colours
    assert [name for name, _ in palette(cards["voc21"])] == labelmaps["voc"]["names21"]
