"""Run-length codes against pycocotools, and against a decoder that reads Label Studio's format bit by bit."""

from __future__ import annotations

import json

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from stego_dist.inference import rle
from stego_dist.inference.exchange import (
    brush_results,
    coco_annotations,
    write_coco,
    write_label_studio,
    write_lists,
)
from stego_dist.inference.names import NamedClass, Names


def maps():
    rng = np.random.default_rng(0)
    for _ in range(40):
        small = rng.integers(0, 4, rng.integers(1, 12, 2))
        yield np.kron(small, np.ones(rng.integers(1, 9, 2), int)).astype(np.uint8)
    yield np.zeros((3, 5), np.uint8)
    yield np.zeros((300, 400), np.uint8)  # a run longer than 65,536 values
    yield rng.integers(0, 3, (40, 50)).astype(np.uint16) * 200  # runs of one pixel, ids over 8 bits
    yield np.array([[7]], np.uint8)


@pytest.fixture(params=[1 << 24, 37])
def slab(request, monkeypatch):
    """Runs that are found in one piece, and in many."""
    monkeypatch.setattr(rle, "SLAB", request.param)
    monkeypatch.setattr(rle, "PIECE", request.param)


@pytest.mark.usefixtures("slab")
def test_coco_masks_are_those_of_pycocotools():
    for labels in maps():
        found = coco_annotations(labels)
        assert [a["category_id"] for a in found] == np.unique(labels).tolist()
        for annotation in found:
            mask = labels == annotation["category_id"]
            wanted = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
            assert annotation["segmentation"]["counts"].encode() == wanted["counts"]
            assert annotation["segmentation"]["size"] == wanted["size"]
            assert annotation["area"] == coco_mask.area(wanted)
            assert annotation["bbox"] == coco_mask.toBbox(wanted).tolist()


class Bits:
    """A stream of bits, most significant first."""

    def __init__(self, data):
        self.bits = "".join(f"{byte:08b}" for byte in data)
        self.at = 0

    def read(self, count):
        self.at += count
        return int(self.bits[self.at - count : self.at], 2)


def decoded_brush(data):
    """As rle-pack decodes: header, then runs and literals."""
    bits = Bits(data)
    out = np.zeros(bits.read(32), np.uint8)
    word = bits.read(5) + 1
    sizes = [bits.read(4) + 1 for _ in range(4)]
    i = 0
    while i < len(out):
        is_run, end = bits.read(1), i + 1 + bits.read(sizes[bits.read(2)])
        if is_run:
            out[i:end] = bits.read(word)
        else:
            for place in range(i, end):
                out[place] = bits.read(word)
        i = end
    return out


@pytest.mark.usefixtures("slab")
def test_brush_masks_decode_to_the_map():
    for labels in maps():
        names = Names(tuple(NamedClass(f"n{i}", (0, 0, i % 256)) for i in range(int(labels.max()) + 1)), ())
        for result in brush_results(labels, names):
            (name,) = result["value"]["brushlabels"]
            channels = decoded_brush(result["value"]["rle"]).reshape(*labels.shape, 4)
            wanted = np.where(labels == int(name[1:]), 255, 0)
            assert (channels == wanted[..., None]).all()
            assert (result["original_height"], result["original_width"]) == labels.shape


NAMES = Names(
    (NamedClass("sky", (1, 2, 3)), NamedClass("<b>\"&'", (4, 5, 6)), NamedClass("none", (7, 8, 9))), (0, 1, 2)
)


def records():
    for i in range(3):
        labels = np.zeros((4, 6 + i), np.uint8)
        labels[1:3, i:] = 1
        image = {"name": f"n{i}", "file": f"a/n{i}.jpg" if i else "http://host/n.jpg", "width": 6 + i, "height": 4}
        image["classes"] = {"sky": {"share": 0.5, "confidence": 0.2}}
        yield {"image": image, "coco": coco_annotations(labels), "label_studio": brush_results(labels, NAMES)}


def test_a_coco_file_is_read_by_pycocotools(tmp_path, capsys):
    write_coco(tmp_path / "coco.json", records, NAMES, "made")
    coco = COCO(str(tmp_path / "coco.json"))
    capsys.readouterr()
    assert coco.getCatIds() == [0, 1, 2]
    assert coco.loadCats(1)[0]["name"] == "<b>\"&'"
    assert coco.getImgIds() == [1, 2, 3]
    for image_id, record in zip((1, 2, 3), records()):
        ids = coco.getAnnIds(imgIds=[image_id])
        assert 0 not in ids
        painted = sum(coco.annToMask(a).astype(int) * (1 + a["category_id"]) for a in coco.loadAnns(ids)) - 1
        wanted = np.zeros((4, record["image"]["width"]), int)
        wanted[1:3, image_id - 1 :] = 1
        assert np.array_equal(painted, wanted)


def test_label_studio_gets_tasks_and_a_configuration(tmp_path):
    write_label_studio(tmp_path / "label_studio.json", records(), NAMES, "mine", "/data/local-files/?d=")
    tasks = json.loads((tmp_path / "label_studio.json").read_text("utf-8"))
    assert [t["data"]["image"] for t in tasks] == [
        "http://host/n.jpg", "/data/local-files/?d=a/n1.jpg", "/data/local-files/?d=a/n2.jpg",
    ]  # fmt: skip
    prediction = tasks[0]["predictions"][0]
    assert prediction["model_version"] == "mine"
    assert prediction["score"] == pytest.approx(0.1)
    assert [r["value"]["brushlabels"] for r in prediction["result"]] == [["sky"], ["<b>\"&'"]]
    from xml.etree import ElementTree

    view = ElementTree.parse(tmp_path / "label_studio.xml").getroot()
    labels = view.find("BrushLabels")
    assert [label.get("value") for label in labels] == ["sky", "<b>\"&'", "none"]
    assert labels[0].get("background") == "#010203"
    assert {r["from_name"] for r in prediction["result"]} == {labels.get("name")}
    assert {r["to_name"] for r in prediction["result"]} == {view.find("Image").get("name")} == {labels.get("toName")}


@pytest.mark.parametrize("entries", [[], [{"a": 1}], [{"a": 1}, {"b": "é\n"}]])
def test_lists_are_written_as_json(tmp_path, entries):
    head = {"x": 1, "y": {}, "z": {"q": [1]}}
    write_lists(tmp_path / "a.json", head, {"one": iter(entries), "two": []})
    assert json.loads((tmp_path / "a.json").read_text("utf-8")) == {**head, "one": entries, "two": []}
