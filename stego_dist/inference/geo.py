"""TIFF files that are read in parts, and maps that are written so, where rasterio is installed (the extra `geo`).

Only the GTiff driver of GDAL is used: other files, which may name further ones, are not opened by it.
"""

from __future__ import annotations

import contextlib
import importlib.util
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from stego_dist.data.colours import Colour
from stego_dist.data.sources import MAX_PIXELS
from stego_dist.data.transforms import Resize
from stego_dist.errors import UserError
from stego_dist.inference.rasters import Pixels, pad_to

SUFFIXES = frozenset({".tif", ".tiff"})
LARGE = 1 << 25
"""Pixels from which a TIFF is read in parts."""
CACHE = 64 * 2**20
"""Bytes of blocks that GDAL keeps."""
INSTALL = "install rasterio, which reads TIFF files in parts: pip install 'stego-dist[geo]'"


def available() -> bool:
    """Whether rasterio is installed."""
    return importlib.util.find_spec("rasterio") is not None


def wants_parts(path: Path, where: str) -> bool:
    """Whether a file is a TIFF with a place on the earth or of many pixels, and rasterio is there to read it so.

    Only its header is read. Raises UserError for one that is too large to be read without.
    """
    if path.suffix.lower() not in SUFFIXES:
        return False
    if available():
        with contextlib.suppress(UserError), _opened(path, where) as file:  # else it may be another format
            placed = file.crs or file.gcps[0] or not file.transform.is_identity
            return bool(placed or file.height * file.width >= LARGE)
        return False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path) as image:
                large = image.width * image.height > MAX_PIXELS
    except Image.DecompressionBombError:
        large = True
    except Exception:  # decoding will say what is wrong with it
        return False
    if large:
        raise UserError(f"{where}: more pixels than the limit of {MAX_PIXELS}; {INSTALL}")
    return False


@contextlib.contextmanager
def _opened(path: Path, where: str) -> Iterator[Any]:
    """A rasterio dataset."""
    import rasterio
    from rasterio.errors import NotGeoreferencedWarning, RasterioError

    try:
        with warnings.catch_warnings(), rasterio.Env(GDAL_CACHEMAX=CACHE):
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with rasterio.open(str(path), driver="GTiff") as file:
                yield file
    except RasterioError as error:
        raise UserError(f"{where}: not a readable TIFF: {error}") from None


class TiffRaster:
    """A `Raster` read in parts: the first three bands, or one; 16 bits keep the upper 8, palettes are painted."""

    def __init__(self, path: Path, where: str) -> None:
        """Read the header. Raises UserError: damaged, of floating point, of other bits."""
        self.path, self.where = path, where
        with _opened(path, where) as file:
            self._size = int(file.height), int(file.width)
            self.bands = [1, 2, 3] if file.count >= 3 else [1]
            self.dtype = str(file.dtypes[0])
            self.palette: dict[int, tuple[int, ...]] | None = None
            if len(self.bands) == 1:
                with contextlib.suppress(ValueError):
                    self.palette = file.colormap(1)
            self.crs, self.transform, self.gcps = file.crs, file.transform, file.gcps
        if self.dtype not in ("uint8", "uint16"):
            raise UserError(f"{where}: a TIFF of {self.dtype}; convert it to 8 or 16 bits")

    @property
    def size(self) -> tuple[int, int]:
        """(H, W)."""
        return self._size

    @property
    def held(self) -> int:
        """Nothing."""
        return 0

    def scaled(self, height: int, width: int, resize: Resize = "bilinear") -> TiffRaster | Pixels:
        """Resized as GDAL does, in memory; from its overviews, if it has them."""
        if (height, width) == self._size:
            return self
        return Pixels(self._read(None, (height, width), resize))

    def region(self, top: int, left: int, height: int, width: int) -> Tensor:
        """A part."""
        rows, columns = min(height, self._size[0] - top), min(width, self._size[1] - left)
        return pad_to(self._read((top, left, rows, columns), None, "nearest"), height, width)

    def _read(self, part: tuple[int, int, int, int] | None, shape: tuple[int, int] | None, resize: Resize) -> Tensor:
        from rasterio.enums import Resampling
        from rasterio.windows import Window

        resampling = Resampling.nearest if resize == "nearest" or self.palette else Resampling.bilinear
        window = None if part is None else Window(part[1], part[0], part[3], part[2])
        out = None if shape is None else (len(self.bands), *shape)
        with _opened(self.path, self.where) as file:
            array = file.read(self.bands, window=window, out_shape=out, resampling=resampling)
        return torch.from_numpy(self._rgb(array))

    def _rgb(self, array: NDArray[Any]) -> NDArray[np.uint8]:
        if self.palette is not None:
            table = np.zeros((max(self.palette) + 1, 3), np.uint8)
            for value, colour in self.palette.items():
                table[value] = colour[:3]
            return np.ascontiguousarray(table[array[0].clip(0, len(table) - 1)].transpose(2, 0, 1))
        eight = (array >> 8).astype(np.uint8) if array.dtype == np.uint16 else array.astype(np.uint8, copy=False)
        return eight if len(eight) == 3 else np.repeat(eight, 3, 0)


@contextlib.contextmanager
def map_writer(path: Path, like: TiffRaster, colours: list[Colour]) -> Iterator[Any]:
    """A rasterio dataset for the class ids of an image at its place on the earth: write rows of it."""
    import rasterio
    from rasterio.errors import NotGeoreferencedWarning

    height, width = like.size
    place = {"gcps": like.gcps[0], "crs": like.gcps[1]} if like.gcps[0] else {"crs": like.crs}
    if not like.transform.is_identity:
        place["transform"] = like.transform
    with warnings.catch_warnings(), rasterio.Env(GDAL_CACHEMAX=CACHE):
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(
            str(path), "w", driver="GTiff", height=height, width=width, count=1, compress="deflate",
            dtype="uint8" if len(colours) <= 256 else "uint16", bigtiff="if_safer", **place,
        ) as file:  # fmt: skip
            if len(colours) <= 256:
                file.write_colormap(1, {i: (*colour, 255) for i, colour in enumerate(colours)})
            yield file


def write_rows(file: Any, first: int, labels: NDArray[np.int16]) -> None:
    """Rows of class ids into a dataset of `map_writer`."""
    from rasterio.windows import Window

    file.write(labels.astype(file.dtypes[0]), 1, window=Window(0, first, labels.shape[1], len(labels)))
