"""TIFF files read in parts give what the whole gives; maps keep their place on the earth."""

from __future__ import annotations

import numpy as np
import pytest
import rasterio
import torch
from PIL import Image
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS
from rasterio.transform import from_origin

from stego_dist.errors import UserError
from stego_dist.inference import geo
from stego_dist.inference.predictor import open_raster
from stego_dist.inference.rasters import Pixels, whole, within
from stego_dist.inference.sources import FileSource
from tests.inference.made import Pointwise, model_of, picture

PLACE = {"crs": CRS.from_epsg(32633), "transform": from_origin(500_000, 5_000_000, 0.5, 0.5)}


def write_tiff(path, array, **options):
    """Bands (C, H, W)."""
    count, height, width = array.shape
    kwargs = {"driver": "GTiff", "count": count, "height": height, "width": width, "dtype": array.dtype, **options}
    colormap = kwargs.pop("colormap", None)
    with rasterio.open(path, "w", **kwargs) as file:
        file.write(array)
        if colormap:
            file.write_colormap(1, colormap)
    return path


def opened(path):
    return open_raster(FileSource(path, path.name))


def bands(height=70, width=90):
    return picture(height, width).transpose(2, 0, 1)


def test_parts_are_those_of_the_whole(tmp_path):
    array = bands()
    raster = opened(write_tiff(tmp_path / "a.tif", array, tiled=True, blockxsize=16, blockysize=32, **PLACE))
    assert isinstance(raster, geo.TiffRaster)
    assert (raster.size, raster.held) == ((70, 90), 0)
    pixels = Pixels(torch.from_numpy(array))
    for part in ((0, 0, 70, 90), (13, 20, 30, 31), (60, 80, 16, 16), (0, 0, 80, 96)):
        assert torch.equal(raster.region(*part), pixels.region(*part))
    assert raster.scaled(70, 90) is raster


def test_shrunk_as_evaluation_shrinks_up_to_rounding(tmp_path):
    smooth = np.array(Image.fromarray(picture(70, 90)).resize((180, 140), Image.Resampling.BICUBIC)).transpose(2, 0, 1)
    raster = opened(write_tiff(tmp_path / "a.tif", np.ascontiguousarray(smooth), **PLACE))
    for size in ((70, 90), (35, 45)):
        a = whole(raster.scaled(*size)).float()
        b = whole(Pixels(torch.from_numpy(smooth.copy())).scaled(*size)).float()
        assert (a - b).abs().mean() < 1.0


@pytest.mark.parametrize("kind", ["grey", "sixteen", "alpha", "palette"])
def test_kinds_of_pixels(tmp_path, kind):
    array, options = bands(), dict(PLACE)
    wanted = array
    if kind == "grey":
        array = array[:1]
        wanted = np.repeat(array, 3, 0)
    elif kind == "sixteen":
        array = (array.astype(np.uint16) << 8) + 77
    elif kind == "alpha":
        array = np.concatenate([array, np.zeros_like(array[:1])])
    else:
        array = array[:1] // 64
        options["colormap"] = {i: (10 * i, 20 * i, 255 - i, 255) for i in range(4)}
        wanted = np.stack([10 * array[0], 20 * array[0], 255 - array[0]])
    raster = opened(write_tiff(tmp_path / "a.tif", array, **options))
    assert np.array_equal(whole(raster).numpy(), wanted)


def test_other_numbers_are_refused(tmp_path):
    path = write_tiff(tmp_path / "a.tif", bands().astype(np.float32), **PLACE)
    with pytest.raises(UserError, match="float32"):
        opened(path)


def test_plain_small_tiffs_are_read_whole(tmp_path):
    Image.fromarray(picture(20, 30)).save(tmp_path / "a.tif")
    assert isinstance(opened(tmp_path / "a.tif"), Pixels)


def test_large_tiffs_are_read_in_parts(tmp_path, monkeypatch):
    monkeypatch.setattr(geo, "LARGE", 20 * 30)
    Image.fromarray(picture(20, 30)).save(tmp_path / "a.TIFF")
    assert isinstance(opened(tmp_path / "a.TIFF"), geo.TiffRaster)


def test_without_rasterio_small_ones_are_read_and_large_ones_say_what_to_install(tmp_path, monkeypatch):
    path = write_tiff(tmp_path / "a.tif", bands(), **PLACE)
    monkeypatch.setattr(geo, "available", lambda: False)
    assert isinstance(opened(path), Pixels)
    monkeypatch.setattr(geo, "MAX_PIXELS", 100)
    with pytest.raises(UserError, match=r"pip install 'stego-dist\[geo\]'"):
        opened(path)


VRT = """<VRTDataset rasterXSize="4" rasterYSize="4"><VRTRasterBand dataType="Byte" band="1"><SimpleSource>
<SourceFilename>/vsicurl/http://127.0.0.1:9/x.tif</SourceFilename></SimpleSource></VRTRasterBand></VRTDataset>"""


@pytest.mark.parametrize("content", [VRT.encode(), b"", b"II*\x00", b"II*\x00\x08\x00\x00\x00\xff\xff"])
def test_what_is_no_tiff_is_refused_and_leads_nowhere(tmp_path, content):
    (tmp_path / "a.tif").write_bytes(content)
    with pytest.raises(UserError, match=r"a\.tif"):
        opened(tmp_path / "a.tif")


def test_another_format_under_this_suffix_is_read_as_what_it_is(tmp_path):
    Image.fromarray(picture(20, 30)).save(tmp_path / "a.tif", "PNG")
    assert isinstance(opened(tmp_path / "a.tif"), Pixels)


def test_a_damaged_part_fails_alone(tmp_path):
    """The header is fine, a block is not: known when the part is read."""
    good = opened(write_tiff(tmp_path / "good.tif", bands(64, 64), **PLACE))
    path = write_tiff(tmp_path / "bad.tif", bands(64, 64), compress="deflate", tiled=True, blockxsize=32, blockysize=32,
                      **PLACE)  # fmt: skip
    data = bytearray(path.read_bytes())
    data[-3000:] = bytes(3000)
    path.write_bytes(data)
    bad, failures = opened(path), {}
    model = model_of(Pointwise(), window=24)
    found = model.segment_rasters(enumerate([good, bad, good]), 4, lambda i, error: failures.update({i: str(error)}))
    assert sorted(number for number, _, _ in found) == [0, 2]
    assert "bad.tif" in failures[1]
    with pytest.raises(UserError, match=r"bad\.tif"):
        list(model.segment_rasters(enumerate([good, bad]), 4))


def test_a_raster_and_its_pixels_are_segmented_alike(tmp_path):
    array = bands(130, 150)
    raster = opened(write_tiff(tmp_path / "a.tif", array, **PLACE))
    model = model_of(Pointwise(), window=48)
    ((_, _, found),) = model.segment_rasters([(0, raster)])
    assert np.array_equal(found.labels, model(np.ascontiguousarray(array.transpose(1, 2, 0))).labels)


GCPS = [GroundControlPoint(r, c, 13 + c / 1000, 52 - r / 1000) for r, c in ((0, 0), (0, 90), (70, 0), (70, 90))]


@pytest.mark.parametrize("place", [PLACE, {"gcps": GCPS, "crs": CRS.from_epsg(4326)}])
def test_maps_keep_their_place(tmp_path, place):
    raster = opened(write_tiff(tmp_path / "a.tif", bands(), **place))
    labels = np.random.default_rng(0).integers(0, 3, (70, 90)).astype(np.int16)
    colours = [(1, 2, 3), (40, 50, 60), (255, 0, 7)]
    with geo.map_writer(tmp_path / "map.tif", raster, colours) as file:
        for first in range(0, 70, 16):
            geo.write_rows(file, first, labels[first : first + 16])
    with rasterio.open(tmp_path / "a.tif") as image, rasterio.open(tmp_path / "map.tif") as found:
        assert np.array_equal(found.read(1), labels)
        assert (found.crs, found.transform) == (image.crs, image.transform)
        assert [(g.row, g.col, g.x, g.y) for g in found.gcps[0]] == [(g.row, g.col, g.x, g.y) for g in image.gcps[0]]
        assert found.gcps[1] == image.gcps[1]
        assert [found.colormap(1)[i][:3] for i in range(3)] == colours
    assert Image.open(tmp_path / "map.tif").mode == "P"


@pytest.mark.parametrize("size", [(100, 200), (5000, 4000), (1, 60_000), (90_000, 7), (4096, 4096)])
def test_sizes_within_limits_keep_their_proportions(size):
    height, width = within(size, 1 << 20, 1500)
    assert height * width <= 1 << 20
    assert max(height, width) <= 1500
    if max(size) <= 1500:
        assert (height, width) == size
    elif min(height, width) > 10:
        assert height / width == pytest.approx(size[0] / size[1], rel=0.1)
    if min(size) > 10 and max(size) < 5000:  # what Pillow's side makes of it
        assert Pixels(torch.zeros(3, *size, dtype=torch.uint8)).scaled(height, width).size == (height, width)
