"""Where the files of a shard set lie: a folder, a web server, or an object store.

In: a path, `http(s)://…` or `s3://bucket/prefix`. Out: `Storage`, which reads whole files, ranges and streams, and
writes files that appear whole or not at all. Names are relative: `manifest.json`, `train-00000.tar`.

base.py has the interface, local.py folders, remote.py what web servers and object stores share, s3.py the latter,
retry.py what is tried again, cache.py the local cache.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from stego_dist.config import StorageConfig
from stego_dist.data.storage.base import Storage
from stego_dist.data.storage.local import LocalStorage
from stego_dist.errors import ConfigError

__all__ = ["LocalStorage", "Storage", "open_storage", "with_cache"]


def open_storage(place: str | Path | Storage, settings: StorageConfig | None = None) -> Storage:
    """The storage at a path or URL; nothing is read yet. Raises ConfigError for a URL that can't be one."""
    if isinstance(place, Storage):
        return place
    scheme, mark, rest = str(place).partition("://")
    if isinstance(place, Path) or not mark:
        return LocalStorage(Path(place))
    if scheme == "file":
        return LocalStorage(Path(rest))
    from stego_dist.data.storage.remote import HttpStorage  # local shards need neither library
    from stego_dist.data.storage.s3 import S3Storage

    kinds: dict[str, Callable[[str, StorageConfig], Storage]] = {"http": HttpStorage, "https": HttpStorage}
    kinds["s3"] = S3Storage
    if scheme not in kinds:
        raise ConfigError(
            f"{place}: shards are read from folders, http(s):// and s3://, not {scheme}://; stores that speak the S3 "
            "protocol are s3://bucket/prefix with AWS_ENDPOINT_URL naming their server"
        )
    return kinds[scheme](str(place).rstrip("/"), settings or StorageConfig())


def with_cache(
    storage: Storage, settings: StorageConfig | None, files: Mapping[str, tuple[str, int | None]]
) -> Storage:
    """The same storage, by way of the local cache when it is remote and `settings` name one (cache.py).

    `files`: names of what is kept, with SHA-256 and size. Raises UserError when the cache's folder can't be made.
    """
    if isinstance(storage, LocalStorage) or settings is None or settings.cache_dir is None:
        return storage
    from stego_dist.data.storage.cache import BlockCache, CachedStorage

    return CachedStorage(storage, BlockCache(Path(settings.cache_dir), round(settings.cache_gb * 1e9)), files)
