from __future__ import annotations

import io
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stego_dist.data import sources
from stego_dist.data.card import load_card
from stego_dist.data.sources import find_pairs, is_plain_jpeg, open_image
from stego_dist.errors import UserError


def save(path: Path, pixels: np.ndarray | Image.Image, **params) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(path, **params)
    return path


def encoded(image: Image.Image, kind: str, **params) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **params)
    return buffer.getvalue()


GREY = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20
COLOUR = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)


# pairing


def test_pairs_by_relative_name_where_sort_orders_differ(tmp_path, card):
    # sorted by file name, images are a-b.png, a.jpg and labels a.png, a-b.tif in other orders
    for name in ("a.jpg", "a-b.png", "a/x.webp", "b.c.JPG"):
        save(tmp_path / "imgs/train" / name, COLOUR)
    for name in ("a.png", "a-b.tif", "a/x.bmp", "b.c.PNG", "extra.png"):
        save(tmp_path / "labels/train" / name, GREY)
    (tmp_path / "imgs/train/notes.txt").write_text("not an image")
    (tmp_path / "imgs/train/._a.jpg").write_bytes(b"resource fork")
    pairs = find_pairs(card, tmp_path, "train")
    assert [p.key for p in pairs] == ["a", "a-b", "a/x", "b.c"]
    for pair in pairs:
        assert pair.label is not None
        for path, folder in ((pair.image, "imgs/train"), (pair.label, "labels/train")):
            assert path.relative_to(tmp_path / folder).with_suffix("").as_posix() == pair.key


def test_two_files_of_one_name_are_both_named(tmp_path, card):
    save(tmp_path / "imgs/train/a.jpg", COLOUR)
    save(tmp_path / "imgs/train/a.png", COLOUR)
    with pytest.raises(UserError, match=r"a\.jpg and .*a\.png"):
        find_pairs(card, tmp_path, "train")


def test_missing_split_folder_and_images_are_named(tmp_path, card):
    with pytest.raises(UserError, match=r"'test'.*train, val"):
        find_pairs(card, tmp_path, "test")
    with pytest.raises(UserError, match=r"imgs/train does not exist"):
        find_pairs(card, tmp_path, "train")
    (tmp_path / "imgs/train").mkdir(parents=True)
    with pytest.raises(UserError, match=r"no images in .*imgs/train"):
        find_pairs(card, tmp_path, "train")


def test_images_without_label_are_counted_and_the_first_five_named(tmp_path, card):
    for i in range(8):
        save(tmp_path / f"imgs/train/{i}.png", COLOUR)
    assert all(p.label is None for p in find_pairs(card, tmp_path, "train"))  # no label folder: unlabelled
    save(tmp_path / "labels/train/7.png", GREY)
    with pytest.raises(UserError, match="7 of 8 images have no label") as error:
        find_pairs(card, tmp_path, "train")
    assert "4.png" in str(error.value) and "5.png" not in str(error.value)
    kept = find_pairs(card, tmp_path, "train", on_error="skip")
    assert [p.label is not None for p in kept] == [False] * 7 + [True]


def test_a_label_folder_without_any_label_is_an_error_even_when_skipping(tmp_path, card):
    save(tmp_path / "imgs/train/a.png", COLOUR)
    save(tmp_path / "labels/train/a.jpg", GREY)  # lossy: not a label
    with pytest.raises(UserError, match="1 of 1 images have no label"):
        find_pairs(card, tmp_path, "train", on_error="skip")


def test_camvid_pairs(shared):
    card = load_card("camvid11")
    for split, count in (card.expected or {}).items():
        pairs = find_pairs(card, shared / "data" / "camvid", split)
        assert len(pairs) == count
        assert all(p.label is not None and p.label.stem == p.image.stem for p in pairs)


# images


def test_upright_by_exif_orientation(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by 90° clockwise
    path = save(tmp_path / "a.png", COLOUR, exif=exif)
    np.testing.assert_array_equal(np.asarray(open_image(path)), np.rot90(COLOUR, -1))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_plain_jpeg_is_upright_rgb_only(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert is_plain_jpeg(encoded(Image.fromarray(COLOUR), "JPEG", exif=exif)) == (orientation == 1)
    assert not is_plain_jpeg(encoded(Image.fromarray(GREY), "JPEG"))
    assert not is_plain_jpeg(encoded(Image.fromarray(COLOUR), "PNG"))


def test_every_mode_becomes_rgb():
    rgb, alpha = Image.fromarray(COLOUR), Image.fromarray(COLOUR[..., 0])
    with_alpha = rgb.copy()
    with_alpha.putalpha(alpha)
    palette = rgb.quantize(200)
    wide = COLOUR[..., 0].astype(np.uint16) * 256 + 77
    cases = {
        "RGB": (encoded(rgb, "PNG"), COLOUR),
        "RGBA: alpha dropped": (encoded(with_alpha, "PNG"), COLOUR),
        "L": (encoded(alpha, "PNG"), COLOUR[..., :1].repeat(3, 2)),
        "I;16: upper bits": (encoded(Image.fromarray(wide), "PNG"), COLOUR[..., :1].repeat(3, 2)),
        "I;16 TIFF": (encoded(Image.fromarray(wide), "TIFF"), COLOUR[..., :1].repeat(3, 2)),
        "P": (encoded(palette, "PNG"), np.asarray(palette.convert("RGB"))),
        "P, transparent": (
            encoded(palette, "PNG", transparency=b"\x00\x80\xff"),
            np.asarray(palette.convert("RGB")),
        ),
        "1": (encoded(Image.fromarray(GREY > 100), "PNG"), ((GREY > 100) * 255)[..., None].repeat(3, 2)),
        "CMYK": (encoded(Image.fromarray(255 - COLOUR).convert("CMYK"), "TIFF"), 255 - COLOUR),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name, (data, expected) in cases.items():
            image = open_image(data)
            assert image.mode == "RGB", name
            np.testing.assert_array_equal(np.asarray(image), expected, err_msg=name)


def test_cmyk_jpeg_keeps_its_colours(tmp_path):
    flat = np.full((16, 16, 3), (200, 40, 90), np.uint8)
    path = save(tmp_path / "a.jpg", Image.fromarray(flat).convert("CMYK"), quality=95)
    assert np.abs(np.asarray(open_image(path)).astype(int) - flat).max() <= 3


def test_unreadable_images_are_named_with_the_cause(tmp_path, monkeypatch):
    jpeg, png = encoded(Image.fromarray(COLOUR), "JPEG"), encoded(Image.fromarray(COLOUR), "PNG")
    flipped = bytearray(png)
    flipped[png.index(b"IDAT") + 10] ^= 255
    floats = encoded(Image.fromarray(GREY.astype(np.float32)), "TIFF")
    cases = {
        "empty.jpg": (b"", "0 bytes"),
        "text.jpg": (b"<html>404</html>", "no known image format"),
        "cut.jpg": (jpeg[: len(jpeg) // 2], "not a readable image"),
        "cut.png": (png[:-30], "not a readable image"),
        "flipped.png": (bytes(flipped), "not a readable image"),
        "float.tif": (floats, "floating-point"),
    }
    for name, (data, cause) in cases.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(UserError, match=f"{name}.*{cause}"):
            open_image(tmp_path / name)
    with pytest.raises(UserError, match=r"gone\.jpg.*No such file"):
        open_image(tmp_path / "gone.jpg")
    monkeypatch.setattr(sources, "MAX_PIXELS", 47)
    with pytest.raises(UserError, match="big: 8×6 pixels"):
        open_image(png, "big")
