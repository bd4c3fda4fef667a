from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from stego_dist.data.card import Card
from stego_dist.data.encodings import open_label, read_array, read_source
from stego_dist.data.sources import Source
from stego_dist.data.tiles import Tile, Tiling
from stego_dist.errors import UserError
from tests.data.miniatures import save, save_rgbir

COLOUR = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)

# label maps of ids


def test_label_ids_are_mapped(tmp_path, card):
    raw = np.array([[0, 7, 300], [9, 255, 7]], np.uint16)
    mapped = card.model_copy(update={"label_map": {0: 2, 7: 0, 300: 1}, "ignored": [9]})
    expected = np.array([[2, 0, 1], [255, 255, 0]], np.uint8)
    label = open_label(save(tmp_path / "a.png", raw), mapped, (3, 2))
    assert label.dtype == np.uint8
    np.testing.assert_array_equal(label, expected)


def test_identity_labels_of_every_kind(tmp_path, card):
    ids = np.array([[0, 1, 2], [255, 1, 0]], np.uint8)
    indexed = Image.fromarray(ids).convert("P")
    indexed.putpalette(list(COLOUR.ravel()) * 5)
    for i, image in enumerate((Image.fromarray(ids), indexed, Image.fromarray(ids.astype(np.uint16)))):
        path = save(tmp_path / f"{i}.png", image)
        np.testing.assert_array_equal(open_label(path, card, (3, 2)), ids)
    counted = card.model_copy(update={"classes": None})
    path = save(tmp_path / "wide.png", np.array([[254, 255]], np.uint8))
    np.testing.assert_array_equal(open_label(path, counted, (2, 1)), [[254, 255]])


def test_wrong_labels_are_named(tmp_path, card):
    path = save(tmp_path / "a.png", np.array([[0, 3, 17]], np.uint8))
    with pytest.raises(
        UserError, match=r"a\.png: ids \[3, 17\] are not in card made; allowed: 0 to 2; ignored: \[255\]"
    ):
        open_label(path, card, (3, 1))
    only = card.model_copy(update={"label_map": {3: 0, 17: 1}})
    with pytest.raises(UserError, match=r"ids \[0\].*allowed: \[3, 17\]"):
        open_label(path, only, (3, 1))
    with pytest.raises(UserError, match="label map is 3×1, its image 1×3"):
        open_label(path, card, (1, 3))
    with pytest.raises(UserError, match="not RGB colours"):
        open_label(save(tmp_path / "rgb.png", COLOUR), card, (8, 6))
    (tmp_path / "empty.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"empty\.png: the file is empty"):
        open_label(tmp_path / "empty.png", card, (3, 1))


def test_ids_beyond_16_bits_are_refused(tmp_path, card):
    path = save(tmp_path / "deep.tif", np.array([[0, 70000, -5]], np.int32))
    with pytest.raises(UserError, match=r"ids \[-5, 70000\]"):
        open_label(path, Card.model_validate({**card.model_dump(), "classes": None}), (3, 1))


# label maps in colours

PLAIN = Card(
    name="plain",
    title="",
    images="{split}",
    labels="labels",
    label_colours={7: (255, 0, 0), 0: (0, 0, 255), 300: (0, 0, 0)},
    label_map={7: 1, 300: 0},
    ignored=[0],
    classes=["a", "b"],
)
RED, BLUE, BLACK = (255, 0, 0), (0, 0, 255), (0, 0, 0)


@pytest.mark.parametrize("kind", ["RGB", "RGBA", "P"])
def test_colours_become_classes(tmp_path, kind):
    pixels = np.array([[RED, BLUE, BLACK], [BLACK, RED, RED]], np.uint8)
    image = Image.fromarray(pixels).convert("RGB" if kind == "P" else kind)
    path = save(tmp_path / "a.png", image.quantize(4) if kind == "P" else image)
    np.testing.assert_array_equal(open_label(path, PLAIN, (3, 2)), [[1, 255, 0], [0, 1, 1]])


def test_other_colours_are_named_with_their_counts(tmp_path):
    pixels = np.array([[RED, (255, 0, 1), (255, 0, 1)], [(9, 8, 7), RED, (255, 0, 1)]], np.uint8)
    with pytest.raises(UserError, match=r"a\.tif: colours .*: \(255, 0, 1\) in 3 pixels; \(9, 8, 7\) in 1 pixels$"):
        open_label(save(tmp_path / "a.tif", pixels), PLAIN, (3, 2))
    many = np.arange(24, dtype=np.uint8).reshape(2, 4, 3) + 1
    with pytest.raises(UserError, match="; and 3 more$"):
        open_label(save(tmp_path / "b.png", many), PLAIN, (4, 2))


# .mat files


def mat(path: Path, compress: bool = False, **arrays: object) -> Path:
    savemat(path, arrays, do_compression=compress)
    return path


@pytest.fixture
def arrays(card) -> Card:
    return card.model_copy(update={"image_array": "img", "label_array": "gt", "channels": 4})


def test_arrays_of_any_number_type_hold_ids(tmp_path, arrays):
    expected = np.array([[0, 1, 2], [255, 1, 0]])
    for dtype in (np.uint8, np.int32, np.int64, np.uint16, np.float64):
        path = mat(tmp_path / f"{np.dtype(dtype)}.mat", gt=expected.astype(dtype))
        label = open_label(path, arrays, (3, 2))
        assert label.dtype == np.uint8
        np.testing.assert_array_equal(label, expected)


def test_wrong_arrays_are_named(tmp_path, arrays):
    source = Source(tmp_path / "i.mat", tmp_path / "g.mat", "x")

    def complaint(match: str, **content: object) -> None:
        mat(source.image, **{"img": np.zeros((2, 3, 4), np.uint8), **{k: v for k, v in content.items() if k != "gt"}})
        mat(tmp_path / "g.mat", gt=content.get("gt", np.zeros((2, 3), np.uint8)))
        with pytest.raises(UserError, match=match):
            read_source(source, arrays, True)

    complaint(r"i\.mat: array img must be uint8, height × width × 4; it is uint8, 2 × 3 × 3", img=COLOUR[:2, :3])
    complaint(r"i\.mat: .*it is float64", img=np.zeros((2, 3, 4)))
    complaint(r"g\.mat: array gt must be integers.*it is float64, 2 × 3", gt=np.full((2, 3), 0.5))
    complaint(r"g\.mat: array gt must be integers.*it is uint8, 2 × 2 × 2", gt=np.zeros((2, 2, 2), np.uint8))
    complaint(r"g\.mat: the label map is 2×2, its image 3×2", gt=np.zeros((2, 2), np.uint8))
    complaint(r"g\.mat: ids \[3\] are not in card", gt=np.full((2, 3), 3, np.uint8))
    mat(tmp_path / "g.mat", other=np.zeros((2, 3)), more=1)
    with pytest.raises(UserError, match=r"g\.mat: has no array 'gt'; arrays there: more, other"):
        read_source(source, arrays, True)


@pytest.mark.parametrize("compress", [False, True])
def test_damaged_mat_files_are_named(tmp_path, compress):
    whole = mat(tmp_path / "whole.mat", compress, gt=COLOUR[..., 0]).read_bytes()
    read_array(tmp_path / "whole.mat", "gt")
    damaged = {
        "empty": (b"", "the file is empty"),
        "text": (b"<html>404</html>", "not a readable .mat"),
        "cut": (whole[:-20], "not a readable .mat"),
        "newer": (
            b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + bytes(400),
            "not a readable .mat file of version 5",
        ),
    }
    for name, (data, cause) in damaged.items():
        (tmp_path / f"{name}.mat").write_bytes(data)
        with pytest.raises(UserError, match=rf"{name}\.mat: {cause}"):
            read_array(tmp_path / f"{name}.mat", "gt")
    with pytest.raises(UserError, match=r"gone\.mat: .*No such file"):
        read_array(tmp_path / "gone.mat", "gt")


# four channels


@pytest.mark.parametrize("extra", [0, 1, 2])
def test_infrared_changes_no_colours_whatever_the_file_calls_it(tmp_path, extra):
    pixels = np.random.default_rng(1).integers(0, 256, (6, 8, 4), dtype=np.uint8)
    save_rgbir(tmp_path / "a.tif", pixels, extra)
    card = Card(name="x", title="", images="{split}", channels=4)
    image, label, original = read_source(Source(tmp_path / "a.tif", None, "a"), card, False)
    np.testing.assert_array_equal(np.asarray(image), pixels[..., :3])
    assert label is None and original is None


# tiles


def tile_of(tiling: Tiling, size: tuple[int, int], row: int, column: int) -> Tile:
    return next(tile for tile in tiling.tiles(*size) if (tile.row, tile.column) == (row, column))


def test_a_changed_file_is_read_again_between_tiles(tmp_path, card):
    tile = tile_of(Tiling(size=2), (4, 2), 0, 1)
    for value in (1, 2):
        path = tmp_path / "a.png"
        data = io.BytesIO()
        Image.fromarray(np.full((2, 4), value, np.uint8)).save(data, "PNG", compress_level=value)
        path.write_bytes(data.getvalue() + b"\0" * value)
        np.testing.assert_array_equal(open_label(path, card, (2, 2), tile), np.full((2, 2), value))


def test_a_label_map_of_another_size_is_refused_before_it_is_cut(tmp_path, card):
    tile = tile_of(Tiling(size=2), (4, 2), 0, 0)
    with pytest.raises(UserError, match="label map is 5×2, its image 4×2"):
        open_label(save(tmp_path / "a.png", np.zeros((2, 5), np.uint8)), card, (2, 2), tile)


def test_images_shrink_by_means_and_labels_by_the_top_left_pixel(tmp_path, card):
    rng = np.random.default_rng(2)
    pixels, ids = rng.integers(0, 256, (12, 18, 3), dtype=np.uint8), rng.integers(0, 3, (12, 18), dtype=np.uint8)
    source = Source(
        save(tmp_path / "i.png", pixels),
        save(tmp_path / "l.png", ids),
        "x_1_1",
        tile_of(Tiling(size=3, overlap=1, shrink=3), (18, 12), 0, 1),
    )
    image, label, _ = read_source(source, card, True)
    blocks = pixels[:9, 6:15].reshape(3, 3, 3, 3, 3).mean((1, 3))
    np.testing.assert_allclose(np.asarray(image), blocks, atol=0.6)  # Pillow rounds a little off
    np.testing.assert_array_equal(label, ids[:9:3, 6:15:3])
