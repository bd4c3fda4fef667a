from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from stego_dist.data.card import Card, list_cards, load_card, source_classes
from stego_dist.data.colours import distinct_colours
from stego_dist.errors import UserError

FIELDS = {"name": "mine", "title": "Mine", "images": "{split}/img"}


def write(path: Path, value: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(value), "utf-8")
    return path


def test_packaged_cards_are_found_by_name_and_hold_what_camvid_is():
    assert {"folder", "camvid11"} <= set(list_cards())
    camvid = load_card("camvid11")
    assert [c.name for c in camvid.classes or []][:4] == ["sky", "building", "pole", "road"]
    assert camvid.num_classes == 11 and camvid.ignored == [11]
    assert camvid.expected == {"train": 367, "val": 101}
    assert len({c.colour for c in camvid.classes or []}) == 11
    assert load_card("folder").classes is None


def test_a_card_in_the_working_folder_comes_first(tmp_path, monkeypatch):
    write(tmp_path / "shards" / "camvid11.yaml", {**FIELDS, "title": "my own"})
    monkeypatch.chdir(tmp_path)
    assert load_card("camvid11").title == "my own"


def test_what_is_read_the_default_way_leaves_no_trace_in_fingerprints():
    assert Card(**FIELDS).encoding is None and load_card("camvid11").encoding is None
    coloured = Card(**FIELDS, label_colours={3: (1, 2, 3), 0: (4, 5, 6)}, tile={"size": 9, "shrink": 1})
    assert coloured.encoding == {"label_colours": [[0, 4, 5, 6], [3, 1, 2, 3]], "tile": {"size": 9}}
    assert json.loads(json.dumps(coloured.encoding)) == coloured.encoding


def test_unknown_name_lists_the_known_ones():
    with pytest.raises(UserError, match=r"'camvid12'.*camvid11.*folder"):
        load_card("camvid12")


def test_missing_and_damaged_files_are_named(tmp_path):
    with pytest.raises(UserError, match=r"none\.yaml"):
        load_card(tmp_path / "none.yaml")
    (tmp_path / "broken.yaml").write_text("name: [", "utf-8")
    with pytest.raises(UserError, match=r"broken\.yaml"):
        load_card(tmp_path / "broken.yaml")
    with pytest.raises(UserError, match="list"):
        load_card(write(tmp_path / "list.yaml", ["a"]))


def test_every_wrong_field_is_reported_at_once(tmp_path):
    path = write(tmp_path / "wrong.yaml", {**FIELDS, "image": "x", "label_map": {3: 255}})
    with pytest.raises(UserError, match=r"(?s)wrong\.yaml.*label_map.*image: Extra") as error:
        load_card(path)
    assert "pydantic" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"images": "imgs"}, "no {split}"),
        ({"images": "imgs", "lists": {"train": "a.txt"}}, "not every split a list"),
        ({"lists": {"test": "a.txt"}}, r"lists names \['test'\]"),
        ({"default_splits": ["test"]}, r"default_splits names \['test'\]"),
        ({"image_name": "top_RGB"}, "image_name"),
        ({"label_name": "{key}/{key}"}, "label_name"),
        ({"channels": 5}, "channels"),
        ({"image_array": "img", "tile": {"size": 20}}, "taken whole"),
        ({"tile": {"size": 20, "overlap": 20}}, "cannot overlap"),
        ({"label_array": "gt", "label_colours": {0: [0, 0, 0]}}, "colours or an array"),
        ({"label_colours": {0: [0, 0, 0], 1: [0, 0, 0]}}, "one colour to two ids"),
        ({"expected": {"test": 3}}, "test"),
        ({"ignored": [4], "label_map": {4: 0}}, "both ignored and in label_map"),
        ({"classes": ["a", "a"]}, "different names"),
        ({"classes": ["a", "b"], "label_map": {9: 2}}, r"class ids \[2\]"),
        ({"splits": {"../evil": "x"}}, "splits"),
        ({"classes": [{"name": "a", "colour": [0, 0, 256]}]}, "colour"),
    ],
)
def test_contradictions_are_refused(tmp_path, change, complaint):
    with pytest.raises(UserError, match=complaint):
        load_card(write(tmp_path / "card.yaml", {**FIELDS, **change}))


def test_a_card_is_frozen_and_names_get_different_colours():
    card = Card(**FIELDS, classes=["a", {"name": "b", "colour": [1, 2, 3]}])
    assert card.classes is not None and card.classes[1].colour == (1, 2, 3)
    assert card.classes[0].colour == distinct_colours(1, [(1, 2, 3)])[0]
    card = Card(**FIELDS, classes=["a", {"name": "b", "colour": list(card.classes[0].colour)}, "c"])
    assert len({info.colour for info in card.classes or ()}) == 3  # a colour that is given is not given again
    with pytest.raises(ValidationError):
        card.name = "other"


def test_classes_come_from_the_source_only_when_the_card_has_none(tmp_path):
    write(tmp_path / "classes.yaml", ["cat", {"name": "dog"}])
    assert [c.name for c in source_classes(Card(**FIELDS), tmp_path).classes or []] == ["cat", "dog"]
    own = Card(**FIELDS, classes=["x"])
    assert source_classes(own, tmp_path) is own
    write(tmp_path / "classes.yaml", {"cat": 0})
    with pytest.raises(UserError, match=r"classes\.yaml must be a YAML list"):
        source_classes(Card(**FIELDS), tmp_path)
    write(tmp_path / "classes.yaml", ["cat", "cat"])
    with pytest.raises(UserError, match=r"classes\.yaml"):
        source_classes(Card(**FIELDS), tmp_path)
