from __future__ import annotations

import pytest

from stego_dist.data.card import Card
from stego_dist.data.lists import listed_keys, select
from stego_dist.errors import ConfigError, UserError
from tests.data.miniatures import write_list

CARD = Card(
    name="x",
    title="",
    images="imgs/{split}",
    lists={"train": "curated/train/full.txt", "val": ["b", "a"]},
    where="From here.",
)
ALIKE = CARD.model_copy(update={"images": "imgs", "splits": {"train": "t"}})


def test_a_file_of_keys(tmp_path):
    path = write_list(tmp_path / "curated/train/full.txt", ["000001", "", " city/b ", "000001"], end="\r\n")
    assert listed_keys(CARD, "train", tmp_path) == {"000001", "city/b"}
    path.write_bytes(b"\xef\xbb\xbfa\nb")
    assert listed_keys(CARD, "train", tmp_path) == {"a", "b"}


def test_keys_in_the_card_and_no_list(tmp_path):
    assert listed_keys(CARD, "val", tmp_path) == {"a", "b"}
    assert listed_keys(CARD.model_copy(update={"lists": {}}), "val", tmp_path) is None


def test_lists_elsewhere_with_and_without_their_first_folder(tmp_path):
    write_list(tmp_path / "src/curated/train/full.txt", ["source"])
    write_list(tmp_path / "a/curated/train/full.txt", ["outer"])
    write_list(tmp_path / "b/train/full.txt", ["inner"])
    for folder, expected in ((None, "source"), (tmp_path / "a", "outer"), (tmp_path / "b", "inner")):
        assert listed_keys(CARD, "train", tmp_path / "src", folder) == {expected}
    with pytest.raises(UserError, match=r"split train: the list .* is missing: .*none.* or .*none.*From here"):
        listed_keys(CARD, "train", tmp_path / "src", tmp_path / "none")


def test_without_its_list_a_split_has_all_images_with_a_warning(tmp_path, capsys):
    assert listed_keys(CARD, "train", tmp_path) is None
    text = capsys.readouterr().err
    assert "full.txt is missing" in text and "cannot be compared" in text and "--lists" in text


def test_where_only_lists_tell_splits_apart_a_missing_one_is_an_error(tmp_path):
    with pytest.raises(UserError, match=r"split train: the list .*full\.txt"):
        listed_keys(ALIKE, "train", tmp_path)


def test_lists_that_nothing_would_read_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="reads no lists"):
        listed_keys(CARD.model_copy(update={"lists": {"val": ["a"]}}), "train", tmp_path, tmp_path)


@pytest.mark.parametrize(("data", "complaint"), [(b"\n \n", "is empty"), (b"\xff\xfe\x00", "cannot read the list")])
def test_damaged_lists_are_named(tmp_path, data, complaint):
    path = write_list(tmp_path / "curated/train/full.txt", [])
    path.write_bytes(data)
    with pytest.raises(UserError, match=rf"{complaint}.*full\.txt|full\.txt {complaint}"):
        listed_keys(CARD, "train", tmp_path)


def test_what_is_listed_must_be_there(capsys):
    images = {"a": 1, "b": 2, "c": 3}
    assert select(images, None, "x", may_miss=False) == images
    assert select(images, {"c", "a"}, "x", may_miss=False) == {"a": 1, "c": 3}
    wanted = {"a", *"uvwxyz"}
    with pytest.raises(UserError, match=r"split s: 6 of 7 listed images are not there: u, v, w, x, y, …"):
        select(images, wanted, "split s", may_miss=False)
    assert select(images, wanted, "split s", may_miss=True) == {"a": 1}
    assert "6 of 7 listed images" in capsys.readouterr().err
    with pytest.raises(UserError, match="1 of 1 listed"):
        select(images, {"z"}, "split s", may_miss=True)
