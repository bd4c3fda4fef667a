"""`serve` as a program: where it listens, how it ends, what it says when it can't."""

from __future__ import annotations

import http.client
import signal
import socket
import subprocess
import sys
from urllib.parse import urlsplit

import pytest

from stego_dist.cli import main
from stego_dist.errors import UserError
from stego_dist.serve.guard import HEADER, VALUE
from stego_dist.serve.server import announce, bind, make_page
from tests.serve.serving import encoded, picture


@pytest.mark.parametrize(("number", "busy"), [(signal.SIGINT, False), (signal.SIGTERM, True)])
def test_it_prints_its_address_and_ends_when_asked(tiny_run, number, busy, tmp_path):
    command = [sys.executable, "-m", "stego_dist", "serve", str(tiny_run.root), "--port", "0", "--scale", "native"]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen([*command, "--max-mb", "0.5"], stdout=subprocess.PIPE, stderr=log, text=True)
    try:
        assert process.stdout is not None
        url = urlsplit(process.stdout.readline().strip())
        said = (tmp_path / "log").read_text()
        assert url.hostname == "127.0.0.1" and "names.yaml" in said and "NETWORK" not in said
        connection = http.client.HTTPConnection(url.netloc, timeout=60)
        connection.request("POST", "/api/images?name=a.png", encoded(picture()), {HEADER: VALUE})
        answer = connection.getresponse()
        assert answer.status == 201 and answer.read()  # the connection stays open
        if busy:
            connection.request("POST", "/api/images?name=b.png", encoded(picture(7000, 7000)), {HEADER: VALUE})
            other = http.client.HTTPConnection(url.netloc, timeout=60)
            other.request("GET", "/api/state")
            assert other.getresponse().status == 200  # by now the image is there
        process.send_signal(number)
        if busy:
            answer = connection.getresponse()
            assert answer.status == 503 and b"stopping" in answer.read()
        assert process.wait(20) == 0
        said = (tmp_path / "log").read_text()
        assert said.splitlines()[-1].startswith("stopped") and "Traceback" not in said
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_how_images_are_looked_at(tiny_run):
    page = make_page(tiny_run, readout="learned", scale=64, window=48, flip=False)
    model = page.model
    assert (model.scorer.readout, model.scale, model.side, model.scorer.flip) == ("learned", 64, 6, False)
    assert page.facts["readout"] == "learned clusters" and page.facts["seen"] == "64 pixels"
    model = make_page(tiny_run, overrides=["eval.resolution=56", "eval.flip=true"]).model
    assert (model.scorer.readout, model.scale, model.side, model.scorer.flip) == ("kmeans", 56, 14, True)


def test_an_address_that_others_reach_is_said_loudly(tiny_run, capsys):
    for host, loopback in (("0.0.0.0", False), ("127.0.0.1", True), ("localhost", True)):
        address = bind(host, 0)
        with address.socket:
            announce(tiny_run, address, None)
            out, err = capsys.readouterr()
            assert address.loopback == loopback and ("OPEN TO THE NETWORK" in err) != loopback
            name = socket.gethostname() if not loopback else host
            assert out.strip() == f"http://{name}:{address.port}/" and address.port > 0
            assert (socket.gethostname().lower() in address.names) != loopback


def test_places_that_are_taken_or_are_none():
    with bind("127.0.0.1", 0).socket as taken, pytest.raises(UserError, match=r"in use.*--port 0"):
        bind("127.0.0.1", taken.getsockname()[1])
    with pytest.raises(UserError, match="cannot listen at 192.0.2.1"):
        bind("192.0.2.1", 0)
    with pytest.raises(UserError, match="cannot listen"):
        bind("127.0.0.1", 70_000)


def test_what_is_wrong_is_a_sentence(tiny_run, tmp_path, capsys):
    assert main(["serve", str(tmp_path), "--port", "0"]) == 1
    assert "is no run" in capsys.readouterr().err
    assert main(["serve", str(tiny_run.root), "--port", "0", "backbone.nome=x"]) == 2
    assert "backbone.nome" in capsys.readouterr().err
    for option in (["--max-mb", "0"], ["--timeout", "nan"], ["--scale", "large"], ["--readout", "x"]):
        with pytest.raises(SystemExit, match="2"):
            main(["serve", str(tiny_run.root), *option])


def test_without_the_extra_it_is_named():
    program = "import sys; sys.modules['starlette'] = None; from stego_dist.cli import main; main(['serve', '.'])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "serve needs starlette: pip install 'stego-dist[serve]'" in done.stderr


def test_names_of_other_clusters_stop_it(tiny_run, capsys):
    tiny_run.names.write_text("of: kmeans 000000000000\nclusters: {}\n", "utf-8")
    try:
        assert main(["serve", str(tiny_run.root), "--port", "0"]) == 1
        assert "clustered again" in capsys.readouterr().err
    finally:
        tiny_run.names.unlink()
