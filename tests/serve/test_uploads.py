"""What is sent as an image: predicted as the model does, or refused with a sentence; the server goes on."""

from __future__ import annotations

import gzip
import socket
import struct
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Event

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

import stego_dist.serve.shelf as shelf
from stego_dist.inference.model import Model
from stego_dist.serve.guard import HEADER, VALUE
from tests.serve.serving import CLUSTERS, LIMITS, encoded, picture, served


def test_what_comes_back_is_what_the_model_sees(site):
    image = picture()
    answer = site.upload(encoded(image), "a%20street.1.png")
    assert answer.status == 201
    seen = answer.json
    assert (seen["name"], seen["width"], seen["height"]) == ("a street.1.png", 60, 44)
    found = Model.load(site.run.root)(image)
    assert len(np.unique(found.clusters)) > 1
    at = f"/api/images/{seen['id']}"
    assert site.ask("GET", at).json == seen
    cells = np.frombuffer(gzip.decompress(site.ask("GET", at + "/cells").data), "<u2").reshape(44, 60)
    np.testing.assert_array_equal(cells, found.clusters)
    np.testing.assert_allclose(seen["shares"], [(found.clusters == c).mean() for c in range(CLUSTERS)])
    assert site.ask("GET", at + "/preview.jpg").image.size == (60, 44)

    labels = site.ask("GET", at + "/labels.png")
    assert labels.image.mode == "P" and labels.headers["content-disposition"].endswith("a%20street.1_classes.png")
    np.testing.assert_array_equal(np.array(labels.image), found.labels)
    np.testing.assert_array_equal(np.array(labels.image.convert("RGB")), found.colours())
    overlay = site.ask("GET", at + "/overlay.png?opacity=0.25").image
    np.testing.assert_array_equal(np.array(overlay), np.array(found.overlay(0.25)))


def test_files_follow_names_without_another_look(site, monkeypatch):
    seen = site.upload(encoded(picture())).json
    monkeypatch.setattr(site.page, "model", None)
    biggest = int(np.argmax(seen["shares"]))
    assert site.edit([biggest], "moss", "#12ab34").status == 200
    painted = np.array(site.ask("GET", f"/api/images/{seen['id']}/overlay.png?opacity=1").image)
    assert (painted == [0x12, 0xAB, 0x34]).all(-1).mean() == pytest.approx(seen["shares"][biggest])


def test_the_page_gets_no_more_pixels_than_it_shows(site, monkeypatch):
    monkeypatch.setattr(shelf, "SHOWN", 30)
    seen = site.upload(encoded(picture(90, 60))).json
    assert seen["shown"] == {"width": 30, "height": 20} and seen["width"] == 90
    at = f"/api/images/{seen['id']}"
    cells = np.frombuffer(gzip.decompress(site.ask("GET", at + "/cells").data), "<u2").reshape(20, 30)
    whole = np.array(site.ask("GET", at + "/labels.png").image)
    assert whole.shape == (60, 90)  # a file has all
    np.testing.assert_array_equal(cells, whole[1::3, 1::3])


def png(width: int, height: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG of such a header, 8-bit grey, and chunks."""
    header = (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    parts = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in (header, *chunks, (b"IEND", b""))
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def squeezed(size: int) -> bytes:
    """Zeros that take a thousandth of their size."""
    return zlib.compress(bytes(size), 9)


def large_jpeg() -> bytes:
    """A JPEG that says it has 200 megapixels."""
    data = bytearray(encoded(Image.new("RGB", (16, 16)), "JPEG"))
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = struct.pack(">HH", 10_000, 20_000)
    return bytes(data)


def text_bomb() -> bytes:
    """A small image with a comment of 100 MB."""
    return png(8, 8, (b"zTXt", b"Comment\0\0" + squeezed(100_000_000)), (b"IDAT", squeezed(72)))


REFUSED = {
    "200 megapixels in a header": (lambda: png(20_000, 10_000), 413, "200 million pixels"),
    "200 megapixels of a JPEG": (large_jpeg, 413, "200 million pixels"),
    "a bomb of 900 megapixels": (lambda: png(30_000, 30_000, (b"IDAT", squeezed(90_000_000))), 413, "more pixels"),
    "a bomb in a comment": (text_bomb, 415, "can't be read"),
    "too many bytes": (lambda: bytes(300_001), 413, "larger than the limit of 0.3 MB"),
    "too many bytes, unannounced": (lambda: iter([bytes(1000)] * 400), 413, "larger than the limit"),
    "no image": (lambda: b"<html><script>alert(1)</script>", 415, "is no image"),
    "a program for a printer": (lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", 415, "is no image"),
    "nothing": (lambda: b"", 415, "is empty"),
    "half an image": (lambda: encoded(picture(400, 300), "JPEG")[:700], 422, "not a readable image"),
    "a strip": (lambda: encoded(Image.new("RGB", (90_000, 2))), 413, "would be seen at"),
    "a hair": (lambda: encoded(Image.new("L", (1, 900_000))), 422, "cut it into pieces"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_refused_with_a_sentence(site, what):
    make, status, sentence = REFUSED[what]
    answer = site.upload(make(), "some.png")
    assert answer.status == status, answer.data
    assert sentence in answer.json["error"] and "Traceback" not in answer.json["error"]
    assert site.upload(encoded(picture())).status == 201


def test_more_data_than_the_header_says_does_nothing(site):
    assert site.upload(png(8, 8, (b"IDAT", squeezed(90_000_000)))).status == 201


def test_profiles_and_several_frames(site):
    frames = [picture(seed=i) for i in range(3)]
    assert site.upload(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])).status == 201
    note = PngImagePlugin.PngInfo()
    note.add_text("Comment", "<script>alert(1)</script>", zip=True)
    assert site.upload(encoded(frames[0], pnginfo=note, icc_profile=b"not a profile")).status == 201


@pytest.mark.parametrize(
    ("sent", "shown"),
    [
        ("..%2F..%2F..%2Fetc%2Fpasswd.png", "passwd.png"),
        ("..%5C..%5Cboot.ini", "boot.ini"),
        ("%2Ftmp%2Fx%00y%0d%0aSet-Cookie%3A%20a.png", "x_y__Set-Cookie: a.png"),
        ("..", "image"),
        ("x" * 500 + ".png", "x" * 96 + ".png"),
    ],
)
def test_a_file_name_is_only_a_name(site, sent, shown):
    seen = site.upload(encoded(picture()), sent).json
    assert seen["name"] == shown
    headers = site.ask("GET", f"/api/images/{seen['id']}/labels.png").headers
    assert "/" not in headers["content-disposition"] and "set-cookie" not in headers


def test_no_path_leads_out(site):
    for path in ("/static/../app.py", "/static/..%2fapp.py", "/static/%2e%2e/naming.py", "/api/images/..%2f..%2fx"):
        assert site.ask("GET", path).status == 404


def test_images_that_come_together_each_get_their_own(site):
    sizes = [(40 + 3 * i, 30 + 2 * i) for i in range(6)]
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda size: site.upload(encoded(picture(*size))), sizes))
    assert [(a.json["width"], a.json["height"]) for a in answers] == sizes
    assert len({a.json["id"] for a in answers}) == 6


def test_only_the_last_few_are_kept(site, monkeypatch):
    monkeypatch.setattr(shelf, "KEEP", 2)
    ids = [site.upload(encoded(picture())).json["id"] for _ in range(3)]
    found = [site.ask("GET", f"/api/images/{key}") for key in ids]
    assert [answer.status for answer in found] == [404, 200, 200] and "Drop it again" in found[0].json["error"]
    monkeypatch.setattr(shelf, "KEEP_BYTES", 1)
    newest = site.upload(encoded(picture())).json["id"]
    assert [site.ask("GET", f"/api/images/{key}").status for key in (*ids, newest)] == [404, 404, 404, 200]


def half_sent(site) -> socket.socket:
    """A connection whose upload stands still."""
    connection = socket.create_connection(site.netloc.split(":"), timeout=20)
    head = f"POST /api/images HTTP/1.1\r\nHost: {site.netloc}\r\n{HEADER}: {VALUE}\r\nContent-Length: 1000\r\n\r\n"
    connection.sendall(head.encode() + bytes(10))
    assert site.ask("GET", "/api/state").status == 200
    return connection


def test_uploads_that_stand_still_or_break_off(tiny_run, monkeypatch, caplog):
    monkeypatch.setattr("stego_dist.serve.server.GRACE_SECONDS", 0.2)
    with served(tiny_run) as site:
        half_sent(site).close()
        with monkeypatch.context() as patch:
            patch.setattr("stego_dist.serve.uploads.BODY_SECONDS", 0.1)
            with half_sent(site) as slow:
                assert b"408" in slow.recv(100)
        assert site.upload(encoded(picture())).status == 201
        last = half_sent(site)
    with last:
        assert b"503" in last.recv(100)
    assert not any(record.exc_info for record in caplog.records)


class Slow:
    """A model that waits until it may go on."""

    def __init__(self, model: Model) -> None:
        self.model, self.begun, self.may = model, Event(), Event()

    def __getattr__(self, name):
        return getattr(self.model, name)

    def __call__(self, image):
        self.begun.set()
        assert self.may.wait(30)
        return self.model(image)


def test_a_full_queue_and_a_time_limit(tiny_run):
    data = encoded(picture())
    with served(tiny_run, replace(LIMITS, places=1, seconds=1.0)) as site, ThreadPoolExecutor(4) as pool:
        slow = site.page.model = Slow(site.page.model)
        first = pool.submit(site.upload, data)
        assert slow.begun.wait(10)
        busy = site.upload(data)
        assert busy.status == 503 and "Try again" in busy.json["error"]
        assert first.result().status == 504 and "--timeout" in first.result().json["error"]
        second = pool.submit(site.upload, data)  # waits behind the one that was given up
        time.sleep(0.1)
        slow.may.set()
        assert second.result().status == 201 and site.upload(data).status == 201


def test_the_worker_refuses_what_has_no_place(tiny_run):
    data = encoded(picture())
    with served(tiny_run, replace(LIMITS, places=1, seconds=0.5)) as site:
        slow = site.page.model = Slow(site.page.model)
        assert [site.upload(data).status for _ in range(3)] == [504, 504, 503]  # in work, waiting, no place
        slow.may.set()
        slow.begun.clear()
        for _ in range(50):
            if (answer := site.upload(data)).status == 201:
                break
        assert answer.status == 201


def test_a_fault_of_the_program_is_one_answer(site, monkeypatch):
    def broken(*args):
        raise RuntimeError("CUDA out of memory")

    with monkeypatch.context() as patch:
        patch.setattr("stego_dist.serve.app.look_at", broken)
        answer = site.upload(encoded(picture()))
    assert answer.status == 500 and "RuntimeError" in answer.json["error"]
    assert "content-security-policy" in answer.headers
    assert site.upload(encoded(picture())).status == 201
