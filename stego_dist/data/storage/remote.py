"""Storages behind a network: ranged requests, streams that go on where they broke off, retries; and web servers."""

from __future__ import annotations

import contextlib
import io
from abc import abstractmethod
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import BinaryIO, cast
from urllib.parse import quote, urlsplit

import urllib3
from urllib3.response import BaseHTTPResponse

from stego_dist.config import StorageConfig
from stego_dist.data.storage.base import PerProcess, RangeReader, Storage, scratch_folder
from stego_dist.data.storage.retry import Attempts, TemporaryError, retry
from stego_dist.data.storage.web import Body, asking, connections
from stego_dist.errors import ConfigError, UserError

READ = 2**20
"""Bytes asked of a connection at a time."""


class RemoteStorage(Storage):
    """What web servers and object stores share."""

    parallel = 16
    advice = "; it does not let you read this"
    """For those whom a server refuses (401, 403)."""

    def __init__(self, url: str, settings: StorageConfig) -> None:
        parts = urlsplit(url)
        if not parts.hostname or parts.username or parts.query or parts.fragment:
            raise ConfigError(
                f"{parts.scheme}://{parts.hostname or ''}{parts.path}: the URL of a shard set has a host (or bucket) "
                "and a path, but no user, query or fragment"
            )
        self.url, self.settings = url, settings

    def __reduce__(self) -> tuple[type[RemoteStorage], tuple[str, StorageConfig]]:
        return type(self), (self.url, self.settings)

    @property
    def root(self) -> str:
        """The URL."""
        return self.url

    def where(self, name: str) -> str:
        """The file's URL."""
        return f"{self.url}/{name}"

    @abstractmethod
    def _get(self, name: str, offset: int, end: int | None) -> BaseHTTPResponse:
        """Ask for the bytes from `offset` to `end` (None: all); raises as urllib3 and web.py's pools do."""

    def body(self, name: str, offset: int, end: int | None) -> Body:
        """The bytes from `offset` to `end` (None: all): one try."""
        return Body(self.where(name), partial(self._get, name, offset, end), offset, end, self.advice)

    def read(self, name: str) -> bytes:
        """A whole file."""
        return self._read(name, 0, None)

    def read_range(self, name: str, offset: int, size: int) -> bytes:
        """`size` bytes from `offset` on; fewer when the file ends before."""
        return self._read(name, offset, offset + size) if size else b""

    def _read(self, name: str, offset: int, end: int | None) -> bytes:
        def attempt() -> bytes:
            with self.body(name, offset, end) as body:
                return b"".join(iter(lambda: body.read(READ), b""))

        return retry(self.where(name), self.settings.tries, attempt)

    def open(self, name: str, offset: int = 0, end: int | None = None) -> BinaryIO:
        """A stream that goes on from where it broke off."""
        resuming = _Resuming(self, name, offset, end)
        return cast(BinaryIO, io.BufferedReader(RangeReader(resuming.read, resuming.close), READ // 4))

    @contextlib.contextmanager
    def local_copy(self, name: str) -> Iterator[Path]:
        """The file, downloaded to local scratch."""
        with scratch_folder() as folder:
            path = folder / Path(name).name
            with self.open(name) as stream, path.open("wb") as file:
                while data := stream.read(READ):
                    file.write(data)
            yield path

    def staging(self) -> contextlib.AbstractContextManager[Path]:
        """A scratch folder."""
        return scratch_folder()


class _Resuming:
    """Bytes of a file in order; when an answer breaks off another is asked for."""

    def __init__(self, storage: RemoteStorage, name: str, offset: int, end: int | None) -> None:
        self._storage, self._name, self._at, self._end = storage, name, offset, end
        self._body: Body | None = None
        self._attempts = Attempts(storage.where(name), storage.settings.tries)

    def read(self, size: int) -> bytes:
        """Up to `size` bytes; b"" at the end."""
        while self._end is None or self._at < self._end:
            try:
                if self._body is None:
                    self._body = self._storage.body(self._name, self._at, self._end)
                data = self._body.read(size)
            except TemporaryError as error:
                self.close()
                self._attempts.failed(error)
                continue
            self._at += len(data)
            self._attempts.progressed()
            return data
        return b""

    def close(self) -> None:
        """Let the answer go."""
        if self._body is not None:
            self._body.close()
            self._body = None


class HttpStorage(RemoteStorage):
    """A folder of a web server, to be read only."""

    def __init__(self, url: str, settings: StorageConfig) -> None:
        super().__init__(url, settings)
        self._pool = PerProcess(partial(connections, url, settings.timeout_s, 5))

    def _address(self, name: str) -> str:
        parts = urlsplit(self.where(name))
        return parts._replace(path=quote(parts.path, safe="/%~:@!$&'()*+,;=")).geturl()

    def _ask(self, method: str, name: str, headers: dict[str, str]) -> BaseHTTPResponse:
        pool: urllib3.PoolManager = self._pool()
        return pool.request(method, self._address(name), headers=headers, preload_content=False)

    def _get(self, name: str, offset: int, end: int | None) -> BaseHTTPResponse:
        ranged = {} if offset == 0 and end is None else {"Range": f"bytes={offset}-{'' if end is None else end - 1}"}
        return self._ask("GET", name, {"Accept-Encoding": "identity", **ranged})

    def size(self, name: str) -> int | None:
        """Bytes of a file by a HEAD request; None when there is none."""

        def attempt() -> int:
            response = asking(self.where(name), lambda: self._ask("HEAD", name, {}), self.advice)
            response.close()
            return int(response.headers.get("Content-Length", "0"))

        try:
            return retry(self.where(name), self.settings.tries, attempt)
        except FileNotFoundError:
            return None

    def list(self, folder: str) -> list[str]:
        """Web servers don't say: raises UserError."""
        raise self._read_only()

    def put(self, file: Path, name: str) -> None:
        """Web servers are read only: raises UserError."""
        raise self._read_only()

    def remove(self, name: str) -> None:
        """Web servers are read only: raises UserError."""
        raise self._read_only()

    def staging(self) -> contextlib.AbstractContextManager[Path]:
        """Web servers are read only: raises UserError."""
        raise self._read_only()

    def _read_only(self) -> UserError:
        return UserError(f"{self.url}: a web server is only read; write shards to a folder or to s3://bucket/prefix")
