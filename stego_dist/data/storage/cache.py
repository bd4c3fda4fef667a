"""A bounded local cache of what is read from afar, shared by all processes of a machine.

What is kept are blocks of BLOCK bytes, not whole shards: every anchor has a neighbour somewhere in the set, so a cache
of shards would download the whole set for the first few batches, and one that is smaller than the set would download
a shard for nearly every sample. A block costs little more than the sample in it, and its neighbours in the tar are
read soon by the stream that comes along.

1. A block's name is made of the file's checksum in the manifest and its number: a set that is built anew under the same
   URL is never mixed with the old one, and two sets with equal shards share.
2. A block is written under a temporary name and renamed; it begins with a checksum of its own. One that is cut or
   changed is fetched again.
3. Writing holds a file lock, and counts bytes in `usage`. When the bound would be passed, the folder is looked through
   and what was used least recently goes, a tenth more than needed. Temporary files that turn up then were left by
   a process that was killed: whoever writes holds the lock.

A disk that can't be written is warned of once, and everything is read from afar.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import io
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO, cast

from stego_dist import console
from stego_dist.data.storage.base import RangeReader, Storage
from stego_dist.errors import UserError

BLOCK = 2**19
AHEAD = 8
"""Blocks that a stream fetches with one request."""
_DIGEST = 16


class BlockCache:
    """Blocks in a folder, `limit` bytes of them at most."""

    def __init__(self, folder: Path, limit: int) -> None:
        """Raises UserError when the folder can't be made."""
        self.folder, self.limit = folder, limit
        self._broken = False
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"data.storage.cache_dir: {folder} can't be made: {error.strerror}") from None

    def get(self, key: str) -> bytes | None:
        """A block, now the most recently used; None when it is not there or damaged."""
        path = self._path(key)
        try:
            data = path.read_bytes()
            if _digest(data[_DIGEST:]) != data[:_DIGEST]:
                return None
            os.utime(path)
        except OSError:
            return None
        return data[_DIGEST:]

    def put(self, key: str, block: bytes) -> None:
        """Keep a block; least recently used ones make room."""
        if self._broken:
            return
        path, size = self._path(key), _DIGEST + len(block)
        try:
            with self._locked() as usage:
                used = self._usage(usage)
                if used is None or used + size > self.limit:
                    used = self._make_room(size)
                    if used + size > self.limit:
                        return
                usage.seek(0)
                usage.truncate()
                usage.write(str(used + size).encode())  # first: after a crash it says too much, never too little
                usage.flush()
                path.parent.mkdir(exist_ok=True)
                tmp = path.with_name(f"{path.name}.tmp")
                tmp.write_bytes(_digest(block) + block)
                tmp.replace(path)
        except OSError as error:
            self._broken = True
            console.warn(f"data.storage.cache_dir: {self.folder}: {error}; going on without the cache")

    def _path(self, key: str) -> Path:
        name = _digest(key.encode()).hex()  # a manifest from afar does not choose where files lie
        return self.folder / name[:2] / name

    @contextlib.contextmanager
    def _locked(self) -> Iterator[BinaryIO]:
        """The file `usage`, held by this process alone."""
        fd = os.open(self.folder / "usage", os.O_RDWR | os.O_CREAT, 0o666)
        with os.fdopen(fd, "r+b") as usage:
            fcntl.flock(usage, fcntl.LOCK_EX)
            yield usage  # closing unlocks

    def _usage(self, usage: BinaryIO) -> int | None:
        text = usage.read()
        return int(text) if text.isdigit() else None

    def _make_room(self, size: int) -> int:
        """Delete leftovers, and when `size` would not fit the least recently used blocks; return the bytes kept."""
        found: list[tuple[float, int, str]] = []
        for folder in self.folder.iterdir():
            if not folder.is_dir():
                continue
            for entry in os.scandir(folder):
                with contextlib.suppress(FileNotFoundError):
                    if entry.name.endswith(".tmp"):
                        Path(entry).unlink()
                    else:
                        stat = entry.stat()
                        found.append((stat.st_mtime, stat.st_size, entry.path))
        used = sum(entry[1] for entry in found)
        if used + size <= self.limit:
            return used
        for _, freed, path in sorted(found):
            if used + size <= self.limit * 0.9:
                break
            Path(path).unlink(missing_ok=True)
            used -= freed
        return used


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=_DIGEST).digest()


class CachedStorage(Storage):
    """A remote storage, read by way of a cache: the files whose checksums and sizes are known."""

    def __init__(self, remote: Storage, cache: BlockCache, files: Mapping[str, tuple[str, int | None]]) -> None:
        """`files`: name → SHA-256 and size (None: read whole, and checked against the SHA-256)."""
        self.remote, self.cache, self.files = remote, cache, dict(files)
        self.parallel = remote.parallel

    @property
    def root(self) -> Path | str:
        """The remote place."""
        return self.remote.root

    def where(self, name: str) -> Path | str:
        """The remote file."""
        return self.remote.where(name)

    def read(self, name: str) -> bytes:
        """A whole file; one that is known is checked against its SHA-256."""
        sha256, size = self.files.get(name, ("", None))
        if not sha256:
            return self.remote.read(name)
        if size is not None:
            return self.read_range(name, 0, size)
        kept = self.cache.get(sha256)
        if kept is not None and hashlib.sha256(kept).hexdigest() == sha256:
            return kept
        data = self.remote.read(name)
        if hashlib.sha256(data).hexdigest() == sha256:
            self.cache.put(sha256, data)
        return data

    def read_range(self, name: str, offset: int, size: int) -> bytes:
        """`size` bytes from `offset` on; fewer when the file ends before."""
        sha256, length = self.files.get(name, ("", None))
        if not sha256 or length is None:
            return self.remote.read_range(name, offset, size)
        stop = min(offset + size, length)
        if stop <= offset:
            return b""
        first, last = offset // BLOCK, (stop - 1) // BLOCK
        data = b"".join(self._blocks(name, sha256, length, first, last))
        return data[offset - first * BLOCK : stop - first * BLOCK]

    def _blocks(self, name: str, sha256: str, length: int, first: int, last: int) -> list[bytes]:
        """Blocks `first` to `last`; those missing in a row come with one request."""
        blocks = [self.cache.get(f"{sha256}-{number}") for number in range(first, last + 1)]
        at = 0
        while at < len(blocks):
            upto = at
            while upto < len(blocks) and blocks[upto] is None:
                upto += 1
            if upto > at:
                start = (first + at) * BLOCK
                data = self.remote.read_range(name, start, min((first + upto) * BLOCK, length) - start)
                for i in range(at, upto):
                    block = data[(i - at) * BLOCK : (i - at + 1) * BLOCK]
                    blocks[i] = block
                    if len(block) == min(BLOCK, length - (first + i) * BLOCK):  # a file that is cut is not kept
                        self.cache.put(f"{sha256}-{first + i}", block)
            at = upto + 1
        return [block for block in blocks if block is not None]

    def open(self, name: str, offset: int = 0, end: int | None = None) -> BinaryIO:
        """A stream that fetches AHEAD blocks at a time."""
        sha256, length = self.files.get(name, ("", None))
        if not sha256 or length is None:
            return self.remote.open(name, offset, end)
        at, stop = offset, length if end is None else min(end, length)

        def following(size: int) -> bytes:
            nonlocal at
            data = self.read_range(name, at, min(size, stop - at)) if at < stop else b""
            at += len(data)
            return data

        return cast(BinaryIO, io.BufferedReader(RangeReader(following), AHEAD * BLOCK))

    def size(self, name: str) -> int | None:
        """Bytes of the remote file."""
        return self.remote.size(name)

    def list(self, folder: str) -> list[str]:
        """The remote's files."""
        return self.remote.list(folder)

    def put(self, file: Path, name: str) -> None:
        """Write to the remote."""
        self.remote.put(file, name)

    def remove(self, name: str) -> None:
        """Delete from the remote."""
        self.remote.remove(name)

    def local_copy(self, name: str) -> contextlib.AbstractContextManager[Path]:
        """A download of the remote file, not of the cache: who asks wants to check it."""
        return self.remote.local_copy(name)

    def staging(self) -> contextlib.AbstractContextManager[Path]:
        """The remote's."""
        return self.remote.staging()
