"""Names of outputs are harmless, unique, and a function of the set of inputs alone."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from stego_dist.inference.outnames import LONGEST, Called, output_names, safe

HOSTILE = [
    "../../etc/passwd", "/etc/passwd", "..", ".", "", "a/../../b", "..\\..\\b", "C:\\x\\y", "a\x00b", "a\nb",
    "\x1b[31m", ".hidden", "...", "a/./b", "a//b", "~root", "$(reboot)", "`x`", "<b>&\"'", "a" * 5000, "é" * 200,
    "/".join("ab" * 500), "x.png/y", "con", "-rf", "a\udcffb", "雪/山", "a b", "x.tmp", "..hidden/..x",
]  # fmt: skip


@pytest.mark.parametrize("path", HOSTILE)
def test_any_path_becomes_one_that_stays_below_the_folder(path, tmp_path):
    name = safe(path)
    assert name
    target = tmp_path / f"{name}.png"
    assert target.resolve().is_relative_to(tmp_path.resolve())
    for part in name.split("/"):
        assert part not in ("", ".", "..")
        assert not part.startswith(".")
        assert len(part.encode()) <= LONGEST
        assert part.isprintable()
        assert not set(part) & set("\\:*?\"'<>|$`;&~ ")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(b"x")
    assert safe(name) == name


def test_harmless_paths_stay_as_they_are():
    for name in ("street/0016E5_07959", "a.b-c_d+e=f@g,(h)", "雪/山"):
        assert safe(name) == name


def called(path, folder="", identity=None):
    return Called(path, folder, identity or f"{folder}|{path}")


def test_names_are_paths_without_suffix():
    assert output_names([called("a/b.jpg"), called("a/b.c.png"), called("b"), called(".jpg")]) == [
        "a/b", "a/b.c", "b", "_jpg",
    ]  # fmt: skip


def test_what_collides_is_told_apart():
    images = [
        called("x.jpg", "one"), called("x.png", "one"),  # by suffix
        called("y.jpg", "one"), called("y.jpg", "two"),  # by folder
        called("z.jpg", "one", "1"), called("z.jpg", "one", "2"),  # by digest
        called("Q.jpg"), called("q.jpg"),  # case alone
        called("a b.jpg"), called("a_b.jpg"),  # made the same by what is not kept
    ]  # fmt: skip
    names = output_names(images)
    assert names[:4] == ["x_jpg", "x_png", "one/y", "two/y"]
    assert all(name.startswith("z-") for name in names[4:6])
    assert len({name.casefold() for name in names}) == len(names)


def test_a_name_that_another_has_by_right_is_not_taken_from_it():
    names = output_names([called("x.jpg"), called("x.png"), called("x_jpg.png")])
    assert len(set(names)) == 3
    assert names[2] == "x_jpg"


def test_the_order_of_inputs_does_not_matter():
    rng = random.Random(0)
    images = [called(f"{rng.choice('abAB')}.{rng.choice(['jpg', 'png'])}", rng.choice("pq"), str(i)) for i in range(40)]
    names = dict(zip(images, output_names(images)))
    assert len({name.casefold() for name in names.values()}) == 40
    for _ in range(5):
        rng.shuffle(images)
        assert dict(zip(images, output_names(images))) == names


def test_no_folder_stands_in_the_way_of_a_file():
    """The index map of `x` is x.png, which a folder of that name would prevent."""
    names = output_names([called("x.jpg"), called("x.png/y.jpg"), called("X.JPG/z.jpg")])
    assert names == ["x", "x_png/y", "X_JPG/z"]
    assert not any(Path(name).parts[0].endswith(".png") for name in names)
