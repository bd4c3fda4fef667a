"""One file of the web or of an object store, of a bounded size."""

from __future__ import annotations

import os
from functools import lru_cache
from urllib.parse import urlsplit

import urllib3

from stego_dist.config import StorageConfig
from stego_dist.data.storage.retry import retry
from stego_dist.data.storage.web import Body, connections
from stego_dist.errors import UserError

SCHEMES = ("http", "https", "s3")
READ = 2**20


def fetch(url: str, settings: StorageConfig, most: int) -> bytes:
    """The bytes behind http(s)://… (which may have a query) or s3://bucket/key.

    Raises UserError, which names the address without its query: not there, refused, more than `most` bytes, given up
    after the settings' tries.
    """
    parts, where = urlsplit(url), public(url)
    if parts.scheme not in SCHEMES or not parts.hostname or parts.username:
        raise UserError(f"{where}: not an address of http(s) or s3, without a user, that can be read")
    try:
        data = _from_store(url, settings, most) if parts.scheme == "s3" else _from_web(url, where, settings, most)
    except FileNotFoundError:
        raise UserError(f"{where}: there is no such file") from None
    if len(data) > most:
        raise UserError(f"{where}: more than the limit of {most} bytes")
    return data


def public(url: str) -> str:
    """An address as it may be shown: without user, query (which may hold a signature) and fragment."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}{parts.path}"


def _from_store(url: str, settings: StorageConfig, most: int) -> bytes:
    from stego_dist.data.storage import open_storage

    folder, _, name = url.rpartition("/")
    return open_storage(folder, settings).read_range(name, 0, most + 1)


def _from_web(url: str, where: str, settings: StorageConfig, most: int) -> bytes:
    address = urlsplit(url)._replace(fragment="").geturl()
    server = f"{urlsplit(url).scheme}://{urlsplit(url).netloc}"
    pool = _pool(server, settings.timeout_s, os.getpid())

    def attempt() -> bytes:
        def get() -> urllib3.BaseHTTPResponse:
            return pool.request("GET", address, headers={"Accept-Encoding": "identity"}, preload_content=False)

        parts, have = [], 0
        with Body(where, get, 0, None) as body:
            while have <= most and (data := body.read(READ)):
                parts.append(data)
                have += len(data)
        return b"".join(parts)

    return retry(where, settings.tries, attempt)


@lru_cache(maxsize=8)
def _pool(server: str, timeout: float, process: int) -> urllib3.PoolManager:
    """Connections of this process to a server."""
    del process
    return connections(server, timeout, 5)
