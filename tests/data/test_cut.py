"""One image and what is packed of it: shrinking, passing through, and the shapes that break assumptions."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stego_dist.data.cut import cut_image, fitting
from stego_dist.data.plan import BuildOptions
from stego_dist.data.sources import Source
from stego_dist.errors import UserError

RNG = np.random.default_rng(0)


def pair(folder: Path, size: tuple[int, int], suffix: str = "png") -> tuple[Source, np.ndarray, np.ndarray]:
    """A smooth picture, and labels in blocks."""
    width, height = size
    x, y = np.meshgrid(np.linspace(0, 3, width), np.linspace(0, 2, height))
    pixels = np.stack([np.sin(x + y), np.cos(x), np.sin(y)], -1) * 100 + 128
    pixels = pixels.astype(np.uint8)
    ids = ((np.arange(height)[:, None] // 7 + np.arange(width) // 5) % 3).astype(np.uint8)
    Image.fromarray(pixels).save(folder / f"a.{suffix}", quality=95)
    Image.fromarray(ids).save(folder / "a label.png")
    return Source(folder / f"a.{suffix}", folder / "a label.png", "a"), pixels, ids


def decoded(jpeg: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(jpeg)))


@pytest.mark.parametrize(
    ("size", "max_side", "expected"),
    [
        ((640, 480), 320, (320, 240)),
        ((480, 640), 320, (240, 320)),
        ((320, 240), 320, (320, 240)),  # never enlarged
        ((100_000, 1), 512, (512, 1)),  # a side is a pixel at least
        ((333, 100), 100, (100, 30)),
        ((640, 480), None, (640, 480)),
    ],
)
def test_the_longer_side_fits(size, max_side, expected):
    assert fitting(size, max_side) == expected


@pytest.mark.parametrize("size", [(200, 120), (90, 200)])
def test_shrunk_images_and_labels_lie_on_each_other(tmp_path, card, size):
    source, pixels, ids = pair(tmp_path, size)
    options = BuildOptions(max_side=50, quality=100)
    (cut,) = cut_image(source, card, options, labelled=True)
    small = fitting(size, 50)
    assert cut.meta == {"box": (0, 0, *small), "size": small}
    rows = ((np.arange(small[1]) + 0.5) * size[1] / small[1]).astype(int)
    columns = ((np.arange(small[0]) + 0.5) * size[0] / small[0]).astype(int)
    np.testing.assert_array_equal(cut.label, ids[rows][:, columns])  # ids are picked, never mixed
    assert np.abs(decoded(cut.jpeg).astype(int) - pixels[rows][:, columns]).max() <= 6


def test_shrinking_comes_before_cropping(tmp_path, card):
    source, _, _ = pair(tmp_path, (200, 120))
    cuts = cut_image(source, card, BuildOptions(max_side=100, crops="five"), labelled=True)
    assert cuts[0].meta == {"box": (0, 0, 50, 30), "size": (100, 60)}
    assert all(decoded(cut.jpeg).shape == (30, 50, 3) and cut.label.shape == (30, 50) for cut in cuts)


def test_a_jpeg_keeps_its_bytes_unless_it_is_shrunk(tmp_path, card):
    source, _, _ = pair(tmp_path, (60, 40), "jpg")
    data = source.image.read_bytes()
    for max_side, kept in ((None, True), (60, True), (59, False)):
        (cut,) = cut_image(source, card, BuildOptions(max_side=max_side), labelled=False)
        assert (cut.jpeg == data) == kept


def test_one_pixel(tmp_path, card):
    source, _, ids = pair(tmp_path, (1, 1))
    for crops, count in (("none", 1), ("five", 5), ("random", 5)):
        cuts = cut_image(source, card, BuildOptions(crops=crops), labelled=True)
        assert len(cuts) == count
        for cut in cuts:
            assert decoded(cut.jpeg).shape == (1, 1, 3) and (cut.label == ids).all()


@pytest.mark.parametrize("size", [(100_000, 1), (1, 100_000)])
def test_an_image_too_long_for_jpeg_is_named_and_shrinking_helps(tmp_path, card, size):
    source, _, _ = pair(tmp_path, size)
    with pytest.raises(UserError, match=rf"a\.png: {size[0]}×{size[1]} pixels cannot be written as JPEG.*--max-side"):
        cut_image(source, card, BuildOptions(), labelled=True)
    (cut,) = cut_image(source, card, BuildOptions(max_side=1000), labelled=True)
    assert decoded(cut.jpeg).shape[:2] == cut.label.shape == fitting(size, 1000)[::-1]
