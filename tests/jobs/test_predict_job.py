"""Prediction of folders of images: the same files whatever the batches and workers, through faults and restarts."""

from __future__ import annotations

import hashlib
import io
import json
import os
import signal
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import rasterio
from PIL import Image
from rasterio.transform import from_origin

from stego_dist.cli import main
from stego_dist.config import load_config
from stego_dist.crf.backends import winners
from stego_dist.engine.inputs import make_backbone
from stego_dist.errors import ConfigError, UserError
from stego_dist.inference.geo import TiffRaster
from stego_dist.inference.model import Model
from stego_dist.inference.options import Options
from stego_dist.jobs.predict import Setup, Summary, predict
from stego_dist.rundir import RunDir, write_json
from tests.inference.made import picture, write_run
from tests.launching import command, environment, stego

SCHEMA = json.loads(
    (Path(sys.modules["stego_dist"].__path__[0]) / "inference/predictions.schema.json").read_text("utf-8")
)
EVERYTHING = Options(probabilities=True, coco=True, label_studio="/", window=64)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> RunDir:
    return write_run(tmp_path_factory.mktemp("run"))


@pytest.fixture
def own_run(tmp_path) -> RunDir:
    return write_run(tmp_path / "made")


def write_photos(folder: Path, count: int = 7) -> Path:
    sizes = [(44, 52), (52, 44), (44, 52), (40, 160), (44, 52)]
    for i in range(count):
        path = folder / ("sub" if i % 3 == 0 else "") / f"photo {i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture(*sizes[i % 5], i)).save(path)
    return folder


@pytest.fixture
def photos(tmp_path) -> Path:
    return write_photos(tmp_path / "photos")


def predicted(run: RunDir, out: Path, *words: Path | str, options: Options = EVERYTHING, **kwargs) -> Summary:
    return predict(Setup(run.root, (), options, out), [str(word) for word in words], **kwargs)


def contents(out: Path) -> dict[str, str]:
    return {
        str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(out.rglob("*"))
        if path.is_file()
    }


def written(out: Path) -> dict:
    value = json.loads((out / "predictions.json").read_text("utf-8"))
    jsonschema.validate(value, SCHEMA)
    return value


def test_what_is_written(run, photos, tmp_path):
    out = tmp_path / "out"
    summary = predicted(run, out, photos)
    assert (summary.images, summary.done_before, summary.failures) == (7, 0, [])
    value = written(out)
    model = Model.load(run.root, window=64)
    assert [c["name"] for c in value["classes"]] == [c.name for c in model.names.classes]
    for image in value["images"]:
        found = model(image["file"])
        assert found.image is not None
        index = Image.open(out / image["outputs"]["index"])
        assert np.array_equal(np.array(index), found.labels)
        assert np.array_equal(np.array(index.convert("RGB")), found.colours())
        assert (image["height"], image["width"]) == found.size
        overlay = np.array(Image.open(out / image["outputs"]["overlay"])).astype(int)
        assert np.abs(overlay - np.array(found.overlay())).mean() < 12  # JPEG
        with np.load(out / image["outputs"]["probabilities"]) as file:
            np.testing.assert_allclose(file["probabilities"], found.grid_probabilities, atol=1e-3)
            assert file["probabilities"].dtype == np.float16
            assert tuple(file["size"]) == found.size
            assert tuple(file["extent"]) == found.extent
            assert file["classes"].tolist() == [c.name for c in model.names.classes]
        assert {name: c["share"] for name, c in image["classes"].items()} == pytest.approx(found.shares(), abs=1e-6)
        shown = {name: c["confidence"] for name, c in image["classes"].items()}
        assert shown == pytest.approx(found.confidences(), abs=1e-4)
    coco = json.loads((out / "coco.json").read_text("utf-8"))
    assert [image["file_name"] for image in coco["images"]] == [image["file"] for image in value["images"]]
    assert sum(a["area"] for a in coco["annotations"]) == sum(i["width"] * i["height"] for i in value["images"])
    assert len(json.loads((out / "label_studio.json").read_text("utf-8"))) == 7
    assert summary.pixels.total() == pytest.approx(sum(i["width"] * i["height"] for i in value["images"]), abs=7)


def test_an_exported_file_predicts_as_its_run(own_run, photos, tmp_path):
    run, digest = own_run, make_backbone(load_config(own_run.config)).weights_digest()
    write_json(run.provenance, {"inputs": {"backbone weights": digest}})
    assert main(["export", str(run.root), "--format", "safetensors", "--out", str(tmp_path / "export")]) == 0
    file = (tmp_path / "export" / "model.safetensors").rename(tmp_path / "renamed.safetensors")
    for name, place in (("run", run.root), ("file", file)):
        assert main(["predict", str(place), str(photos), "--out", str(tmp_path / name)]) == 0
    mine, exported = (sorted((tmp_path / name / "index").rglob("*.png")) for name in ("run", "file"))
    assert len(mine) > 1 and [p.read_bytes() for p in mine] == [p.read_bytes() for p in exported]


@pytest.mark.parametrize("kind,mode", [("webp", "WEBP"), ("png", "PNG"), ("none", None)])
def test_formats_of_overlays(run, photos, tmp_path, kind, mode):
    predicted(run, tmp_path / "out", photos / "photo 1.png", options=Options(overlay=kind, opacity=1.0))
    (image,) = written(tmp_path / "out")["images"]
    assert set(image["outputs"]) == {"index"} | ({"overlay"} if mode else set())
    if mode:
        overlay = Image.open(tmp_path / "out" / image["outputs"]["overlay"])
        assert overlay.format == mode
        if mode == "PNG":  # nothing but the colours
            index = Image.open(tmp_path / "out" / image["outputs"]["index"])
            assert np.array_equal(np.array(overlay), np.array(index.convert("RGB")))


@pytest.mark.parametrize("batch_size", [1, 4])
def test_batches_do_not_show(run, photos, tmp_path, batch_size):
    predicted(run, tmp_path / "a", photos)
    options = Options(**{**EVERYTHING.__dict__, "batch_size": batch_size})
    predicted(run, tmp_path / "b", photos, options=options)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


@pytest.mark.ray
def test_workers_do_not_show(run, photos, tmp_path):
    (photos / "broken.jpg").write_bytes(b"no image")
    one = predicted(run, tmp_path / "a", photos, tmp_path / "missing.jpg")
    two = predicted(run, tmp_path / "b", photos, tmp_path / "missing.jpg", workers=2)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert {f.where for f in one.failures} == {f.where for f in two.failures}
    assert len(two.failures) == 2
    (photos / "broken.jpg").unlink()
    assert predicted(run, tmp_path / "b", photos, workers=2).done_before == 7


def times(out: Path) -> dict[str, int]:
    return {path.stem: path.stat().st_mtime_ns for path in (out / "records").rglob("*.json")}


def test_what_is_done_is_skipped_until_something_changes(own_run, photos, tmp_path):
    out = tmp_path / "out"
    predicted(own_run, out, photos)
    first, files = times(out), contents(out)
    assert predicted(own_run, out, photos).done_before == 7
    assert (times(out), contents(out)) == (first, files)

    os.utime(photos / "photo 1.png", (1, 1))
    (out / "index/photo_2.png").unlink()
    (out / "records/photo_4.json").write_text("{", "utf-8")
    assert predicted(own_run, out, photos).done_before == 4
    changed = {name for name, when in times(out).items() if when != first[name]}
    assert changed == {"photo_1", "photo_2", "photo_4"}
    assert {k: v for k, v in contents(out).items() if "records" not in k} == {
        k: v for k, v in files.items() if "records" not in k
    }

    own_run.names.write_text("clusters: {0: {name: road}, 1: {name: road}}", "utf-8")
    assert predicted(own_run, out, photos).done_before == 0
    assert "road" in [c["name"] for c in written(out)["classes"]]
    assert predicted(own_run, out, photos).done_before == 7
    for options in (Options(window=64), Options(window=64, scale=24), Options(scale=24, opacity=0.2)):
        assert predicted(own_run, out, photos, options=options).done_before == 0
    assert predicted(own_run, out, photos, options=Options(scale=24, opacity=0.2, batch_size=3)).done_before == 7
    assert predicted(own_run, out, photos, options=options, overwrite=True).done_before == 0
    own_run.model.write_bytes(write_run(tmp_path / "other", "seed=5").model.read_bytes())
    assert predicted(own_run, out, photos, options=options).done_before == 0


def test_a_broken_image_is_named_and_the_rest_goes_on(run, photos, tmp_path):
    out = tmp_path / "out"
    predicted(run, out, photos)
    assert (out / "index/photo_1.png").exists()
    (photos / "photo 1.png").write_bytes((photos / "photo 1.png").read_bytes()[:300])
    (photos / "empty.jpg").write_bytes(b"")
    (photos / "text.png").write_text("no image")
    summary = predicted(run, out, photos, tmp_path / "none.png", f"{tmp_path}/*.gif")
    assert summary.images == 6
    value = written(out)
    assert [Path(f["file"]).name for f in value["failures"]] == [
        "*.gif",
        "none.png",
        "empty.jpg",
        "photo 1.png",
        "text.png",
    ]
    assert all(f["reason"] for f in value["failures"])
    assert not (out / "index/photo_1.png").exists()  # that was another image's
    assert not (out / "records/photo_1.json").exists()


def test_nothing_but_failures(run, tmp_path):
    summary = predicted(run, tmp_path / "out", tmp_path / "none.jpg")
    assert (summary.images, len(summary.failures)) == (0, 1)
    assert written(tmp_path / "out")["images"] == []


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few hundred bytes that says it has so many pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(100_000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(60_000, 60_000), (20_000, 20_000), (2**31 - 1, 1)])
def test_a_bomb_is_refused_by_its_header(run, photos, tmp_path, size):
    (photos / "bomb.png").write_bytes(bomb(*size))
    summary = predicted(run, tmp_path / "out", photos)
    assert summary.images == 7
    assert "bomb.png" in summary.failures[0].reason


def test_names_of_inputs_and_classes_stay_harmless(own_run, tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    Image.fromarray(picture(44, 52)).save(folder / "<img src=x onerror=alert(1)>&'.png")
    own_run.names.write_text("clusters: {0: {name: '../<script>'}, 1: {name: '\"/x'}}", "utf-8")
    predicted(own_run, tmp_path / "out", folder)
    value = written(tmp_path / "out")
    assert [c["name"] for c in value["classes"]][:2] == ["../<script>", '"/x']
    for path in value["images"][0]["outputs"].values():
        assert not set(path) & set("<>&'\" ")
    everything = {path.relative_to(tmp_path).parts[0] for path in tmp_path.rglob("*")}
    assert everything == {"photos", "out", "made"}


def test_the_crf_refines_at_a_bounded_number_of_pixels(run, photos, tmp_path, monkeypatch):
    model, path = Model.load(run.root), photos / "photo 1.png"
    found = model(str(path))
    assert found.image is not None
    bgr = np.ascontiguousarray(found.image[..., ::-1])
    (wanted,) = winners("library", bgr, [found.log_probabilities(*found.size).numpy()])
    predicted(run, tmp_path / "out", photos, options=Options(crf=True), workers=1)
    index = np.array(Image.open(tmp_path / "out/index/photo_1.png"))
    assert np.array_equal(index, wanted)
    assert not np.array_equal(index, found.labels)
    monkeypatch.setattr("stego_dist.inference.predictor.CRF_PIXELS", 500)
    predicted(run, tmp_path / "small", path, options=Options(crf=True))
    small = np.array(Image.open(tmp_path / "small/index/photo_1.png"))
    assert small.shape == index.shape
    assert np.mean(small != index) < 0.5


def test_a_geotiff_becomes_a_map(run, tmp_path):
    path, place = tmp_path / "field.tif", from_origin(500_000, 5_000_000, 0.5, 0.5)
    array = picture(90, 200).transpose(2, 0, 1)
    with rasterio.open(path, "w", driver="GTiff", count=3, height=90, width=200, dtype="uint8", crs="EPSG:32633",
                       transform=place) as file:  # fmt: skip
        file.write(array)
    options = Options(scale="native", window=64, coco=True)
    predicted(run, tmp_path / "out", path, options=options)
    (image,) = written(tmp_path / "out")["images"]
    assert image["outputs"]["index"] == "index/field.tif"
    model = Model.load(run.root, scale="native", window=64)
    with rasterio.open(tmp_path / "out/index/field.tif") as found:
        assert (found.crs.to_epsg(), found.transform) == (32633, place)
        assert np.array_equal(found.read(1), model(picture(90, 200)).labels)
        assert found.colormap(1)[0][:3] == model.names.classes[0].colour
    coco = json.loads((tmp_path / "out/coco.json").read_text("utf-8"))
    assert sum(a["area"] for a in coco["annotations"]) == 90 * 200
    assert predicted(run, tmp_path / "out", path, options=options).done_before == 1


@pytest.mark.parametrize("crf", [False, True])
def test_a_tiff_that_breaks_when_its_overlay_is_made(run, photos, tmp_path, monkeypatch, crf):
    path = tmp_path / "field.tif"
    with rasterio.open(path, "w", driver="GTiff", count=3, height=90, width=200, dtype="uint8", crs="EPSG:32633",
                       transform=from_origin(9, 9, 1, 1)) as file:  # fmt: skip
        file.write(picture(90, 200).transpose(2, 0, 1))
    scaled = TiffRaster.scaled

    def breaking(self, height, width, resize="bilinear"):
        if height != 40:  # what the network sees is fine
            raise UserError("field.tif: a part is damaged")
        return scaled(self, height, width, resize)

    monkeypatch.setattr(TiffRaster, "scaled", breaking)
    summary = predicted(run, tmp_path / "out", path, photos, options=Options(crf=crf))
    assert summary.images == 7
    assert [f.reason for f in summary.failures] == ["field.tif: a part is damaged"]
    assert not (tmp_path / "out/records/field.json").exists()


def test_shards_and_a_list_on_stdin(run, photos, tmp_path):
    summary = predicted(run, tmp_path / "out", run.root.parent / "shards", "-", stdin=[f"{photos}/photo 1.png\n"])
    assert summary.images == 6
    assert (tmp_path / "out/index/picture_03.png").exists()
    train = predicted(run, tmp_path / "train", run.root.parent / "shards", split="train")
    assert train.images == 14


def test_large_images_are_counted(run, tmp_path):
    Image.fromarray(picture(170, 161)).save(tmp_path / "large.png")
    assert predicted(run, tmp_path / "a", tmp_path / "large.png").coarse == 1  # the network sees 40 pixels
    assert predicted(run, tmp_path / "b", tmp_path / "large.png", options=Options(scale=41)).coarse == 0
    assert predicted(run, tmp_path / "c", tmp_path / "large.png", options=Options(scale="native")).coarse == 0


def test_where_nothing_can_be_written(run, photos, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="cannot write to"):
        predicted(run, tmp_path / "file" / "out", photos)
    (tmp_path / "out").mkdir()
    (tmp_path / "out/index").write_text("in the way")
    with pytest.raises(UserError, match="cannot write to"):
        predicted(run, tmp_path / "out", photos)
    with pytest.raises(ConfigError, match="the run itself"):
        predicted(run, run.root, photos)


def test_a_killed_run_leaves_no_half_file_and_goes_on(run, tmp_path):
    photos, out = write_photos(tmp_path / "photos", 60), tmp_path / "out"
    arguments = ["predict", str(run.root), str(photos), "--out", str(out), "--batch-size", "1", "--coco"]
    process = subprocess.Popen(command(1, *arguments), env=environment(), stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while len(list(out.glob("records/**/*.json"))) < 5:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    (out / "index/.photo_9.png.01234567.tmp").write_bytes(b"half")  # as if it had been in the middle of one
    done = times(out)
    assert 5 <= len(done) < 60
    for path in out.rglob("*.png"):
        if not path.name.startswith("."):
            Image.open(path).load()
    assert not (out / "predictions.json").exists()
    again = stego(1, *arguments, "--json")
    assert json.loads(again.stdout)["done_before"] == len(done)
    assert {name: when for name, when in times(out).items() if name in done} == done
    assert not list(out.rglob(".*.tmp"))
    predicted(run, tmp_path / "whole", photos, options=Options(coco=True, batch_size=1))
    assert contents(out) == contents(tmp_path / "whole")


PEAKS = """
import pathlib, re, sys
from stego_dist.cli import main
from stego_dist.config import load_config
for image in sys.argv[2:]:
    words = ["predict", sys.argv[1], image, "--out", f"{image}.out", "--scale", "native", "--no-flip", "--json"]
    assert main(words) == 0
    print("peak", re.search(r"VmHWM:\\s+(\\d+)", pathlib.Path("/proc/self/status").read_text())[1])
"""
"""Not ru_maxrss, which begins with what the parent had."""


def peaks(run: RunDir, *images: Path) -> list[int]:
    """Bytes that a process which predicts images has had in memory at most, after each."""
    words = [sys.executable, "-c", PEAKS, str(run.root), *map(str, images)]
    done = subprocess.run(words, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [int(line.split()[1]) * 1024 for line in done.stdout.splitlines() if line.startswith("peak")]


def test_memory_is_bounded_for_an_image_of_a_hundred_megapixels(tmp_path):
    from tests.inference.made import COARSE_VIT

    sections = {"data": {"resolution": 256}, "eval": {"resolution": 256}}
    run = write_run(tmp_path / "made", backbone=COARSE_VIT, **sections)
    side = 10_000
    block = picture(250, side).transpose(2, 0, 1)
    for name, size in (("large", side), ("small", 250)):
        shape = {"count": 3, "height": size, "width": size, "dtype": "uint8", "interleave": "pixel"}
        place = {"crs": "EPSG:32633", "transform": from_origin(9, 9, 1, 1)}
        with rasterio.open(tmp_path / f"{name}.tif", "w", driver="GTiff", **shape, **place) as file:
            for first in range(0, size, 250):
                file.write(block[:, :, :size], window=((first, first + 250), (0, size)))
    small, large = peaks(run, tmp_path / "small.tif", tmp_path / "large.tif")
    assert large - small < 600e6  # the image alone has 300 MB, its scores at full size two gigabytes
    with rasterio.open(tmp_path / "large.tif.out/index/large.tif") as found:
        assert (found.height, found.width) == (side, side)
        assert len(np.unique(found.read(1, out_shape=(500, 500)))) > 1
    overlay = Image.open(io.BytesIO((tmp_path / "large.tif.out/overlay/large.jpg").read_bytes()))
    assert overlay.size == (4096, 4096)
