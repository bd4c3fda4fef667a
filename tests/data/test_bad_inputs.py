"""Raw data as people have it: what can be packed is, what can't is named, and nothing takes all memory."""

from __future__ import annotations

import io
import json
import struct
import tarfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stego_dist.data.pack import build
from stego_dist.data.plan import BuildOptions
from stego_dist.data.sources import open_image
from stego_dist.errors import UserError

COLOUR = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)


def encoded(image: Image.Image, kind: str, **params: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **params)
    return buffer.getvalue()


def bomb(side: int = 20_000) -> bytes:
    """A whole, valid PNG of side² black pixels in some kilobytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)  # one bit a pixel
    packer, row = zlib.compressobj(1), bytes(1 + side // 8)
    body = b"".join(packer.compress(row * 100) for _ in range(side // 100)) + packer.flush()
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def peak_memory_reset() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def peak_memory() -> int:
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) * 1024


def with_alpha() -> Image.Image:
    image = Image.fromarray(COLOUR)
    image.putalpha(100)
    return image


GOOD = {
    "alpha.png": encoded(with_alpha(), "PNG"),
    "cmyk.jpg": encoded(Image.fromarray(COLOUR).convert("CMYK"), "JPEG"),
    "deep.png": encoded(Image.fromarray(COLOUR[..., 0].astype(np.uint16) * 256), "PNG"),
    "grey.jpg": encoded(Image.fromarray(COLOUR[..., 0]), "JPEG"),
    "one.png": encoded(Image.fromarray(COLOUR[:1, :1]), "PNG"),
    "palette.png": encoded(Image.fromarray(COLOUR).quantize(16), "PNG"),
    "ünïcode und レ space.jpg": encoded(Image.fromarray(COLOUR), "JPEG"),
    "sub dir/two.dots.in it.webp": encoded(Image.fromarray(COLOUR), "WEBP"),
    "long.png": encoded(Image.new("RGB", (1, 60_000)), "PNG"),
}
BAD = {
    "bomb.png": (bomb(), "20000×20000 pixels are more than the limit"),
    "cut.jpg": (encoded(Image.fromarray(COLOUR), "JPEG")[:-40], "not a readable image"),
    "empty.jpg": (b"", "the file is empty"),
    "page.jpg": (b"<html>404 Not Found</html>", "no known image format"),
    "toolong.png": (encoded(Image.new("RGB", (1, 100_000)), "PNG"), "cannot be written as JPEG"),
}


def write(root: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        path = root / "imgs/train" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root


def test_everything_that_is_an_image_is_packed(card, tmp_path):
    root = write(tmp_path / "raw folder", GOOD)
    shard_set = build(card, root, tmp_path / "out", BuildOptions(min_shards=1), ["train"])
    assert shard_set.split("train").num_images == len(GOOD)
    with tarfile.open(shard_set.tar(shard_set.split("train").shards[0])) as tar:
        read = {member.name: tar.extractfile(member).read() for member in tar}
    found = {json.loads(data)["source"]: key[:-5] for key, data in read.items() if key.endswith(".json")}
    assert sorted(found) == sorted(name.rpartition(".")[0] for name in GOOD)
    for name, data in GOOD.items():
        packed = Image.open(io.BytesIO(read[f"{found[name.rpartition('.')[0]]}.jpg"]))
        assert (packed.format, packed.mode, packed.size) == ("JPEG", "RGB", open_image(data, name).size)


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_image_fails_by_name_and_cause(card, tmp_path, name):
    root = write(tmp_path / "raw", {"good.jpg": GOOD["grey.jpg"], name: BAD[name][0]})
    with pytest.raises(UserError) as error:
        build(card, root, tmp_path / "out", BuildOptions(), ["train"])
    text = str(error.value)
    assert str(root / "imgs/train" / name) in text and BAD[name][1] in text and "--on-error skip" in text


def test_skipped_files_are_listed_relative_to_the_source(card, tmp_path):
    root = write(tmp_path / "raw", {"good.jpg": GOOD["grey.jpg"], **{name: data for name, (data, _) in BAD.items()}})
    shard_set = build(card, root, tmp_path / "out", BuildOptions(on_error="skip"), ["train"])
    assert (shard_set.split("train").num_images, shard_set.split("train").rejected) == (1, len(BAD))
    text = (tmp_path / "out/rejected.jsonl").read_text("utf-8")
    rows = {row["file"]: row for row in map(json.loads, text.splitlines())}
    assert rows.keys() == {f"imgs/train/{name}" for name in BAD}
    for name, (_, cause) in BAD.items():
        row = rows[f"imgs/train/{name}"]
        assert row["split"] == "train" and row["cause"].startswith(f"imgs/train/{name}: ") and cause in row["cause"]
    assert str(tmp_path) not in text
    assert not any(str(tmp_path) in path.read_text("utf-8") for path in tmp_path.glob("out/**/*.json"))


def test_a_bomb_is_refused_before_it_is_unpacked(card, tmp_path):
    data = BAD["bomb.png"][0]
    assert len(data) < 2**20 < 20_000**2 // 8
    root = write(tmp_path / "raw", {"bomb.png": data})
    peak_memory_reset()
    before = peak_memory()
    with pytest.raises(UserError, match=r"bomb\.png: 20000×20000 pixels are more than the limit of \d+"):
        build(card, root, tmp_path / "out", BuildOptions(), ["train"])
    assert peak_memory() - before < 20 * 2**20


def test_a_bomb_among_the_labels_is_refused_too(made, card, tmp_path):
    root = made(2)
    (root / "labels/train/img 01 é.png").write_bytes(BAD["bomb.png"][0])
    with pytest.raises(UserError, match=r"labels/train/img 01 é\.png: 20000×20000 pixels are more"):
        build(card, root, tmp_path / "out", BuildOptions(), ["train"])


def test_memory_does_not_grow_with_the_images_of_a_shard(card, tmp_path):
    big = encoded(Image.fromarray(np.random.default_rng(0).integers(0, 255, (600, 800, 3), np.uint8)), "JPEG")
    peaks = []
    for count in (3, 40):
        root = write(tmp_path / f"raw{count}", {f"{i}.jpg": big for i in range(count)})
        build(card, root, tmp_path / f"out{count}a", BuildOptions(min_shards=1), ["train"])
        peak_memory_reset()
        before = peak_memory()
        build(card, root, tmp_path / f"out{count}", BuildOptions(min_shards=1), ["train"])
        peaks.append(peak_memory() - before)
    assert peaks[1] - peaks[0] < 8 * 2**20 < 37 * len(big)
