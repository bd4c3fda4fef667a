"""A tiny run whose weights are random, its page on a real server in a thread, and a client that sends anything."""

from __future__ import annotations

import http.client
import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import torch
from PIL import Image

from stego_dist.config import dump_config
from stego_dist.models.segmenter import Segmenter
from stego_dist.rundir import RunDir
from stego_dist.serve.app import Limits, Page
from stego_dist.serve.guard import HEADER, VALUE
from stego_dist.serve.server import bind, make_page, serve
from tests.tiny import config_at

CLUSTERS = 5
LIMITS = Limits(upload_bytes=300_000, pixels=1_000_000, seconds=30.0)


def random_run(root: Path) -> RunDir:
    """A run that was never trained: every cluster is somewhere."""
    run = RunDir(root / "run")
    run.root.mkdir(parents=True)
    config = config_at(root, f"clusters.count={CLUSTERS}", "eval.clusters=kmeans")
    run.config.write_text(dump_config(config), "utf-8")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        segmenter = Segmenter(dim=24, code_dim=6, projection="nonlinear", num_clusters=CLUSTERS, num_classes=2)
        segmenter.set_kmeans(torch.randn(CLUSTERS, 6))
    segmenter.save(run.model, step=1, name="tiny", clusters=["kmeans", "learned"])
    return run


def picture(width: int = 60, height: int = 44, seed: int = 0) -> Image.Image:
    """Blocks of colour, so that several clusters are seen."""
    blocks = np.random.default_rng(seed).integers(0, 255, (4, 5, 3), np.uint8)
    return Image.fromarray(blocks).resize((width, height), Image.Resampling.NEAREST)


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """A file's bytes."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@dataclass
class Answer:
    """What came back."""

    status: int
    headers: dict[str, str]
    data: bytes

    @property
    def json(self) -> Any:
        """The body."""
        return json.loads(self.data)

    @property
    def image(self) -> Image.Image:
        """The body."""
        return Image.open(io.BytesIO(self.data))


class Served:
    """A page at its address."""

    def __init__(self, page: Page, url: str, run: RunDir) -> None:
        self.page, self.url, self.run = page, url, run
        self.netloc = urlsplit(url).netloc

    def ask(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Answer:
        """Send a request; writes have the page's header unless `headers` say something else."""
        connection = http.client.HTTPConnection(self.netloc, timeout=60)
        own = {HEADER: VALUE} if headers is None else headers
        connection.request(method, path, body, own)
        answer = connection.getresponse()
        found = Answer(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
        connection.close()
        return found

    def upload(self, data: Any, name: str = "picture.png") -> Answer:
        """Send an image."""
        return self.ask("POST", f"/api/images?name={name}", data)

    def names(self) -> dict[str, Any]:
        """The names now."""
        found: dict[str, Any] = self.ask("GET", "/api/names").json
        return found

    def edit(self, clusters: list[int], name: str, colour: str | None = None, version: str | None = None) -> Answer:
        """Name clusters."""
        edit = {"clusters": clusters, "name": name, "colour": colour, "version": version or self.names()["version"]}
        return self.ask("PUT", "/api/names", json.dumps(edit))


@contextmanager
def served(run: RunDir, limits: Limits = LIMITS, **options: Any) -> Iterator[Served]:
    """The page of a run on a free port of loopback."""
    page, address = make_page(run, limits=limits, **options), bind("127.0.0.1", 0)
    servers: list[Any] = []
    running = Event()

    def ready(server: Any) -> None:
        servers.append(server)
        running.set()

    thread = Thread(target=serve, args=(page, address, ready))
    thread.start()
    assert running.wait(10)
    try:
        yield Served(page, address.url, run)
    finally:
        servers[0].should_exit = True
        thread.join(20)
        assert not thread.is_alive()
