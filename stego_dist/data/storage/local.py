"""A folder as a storage: positioned reads, atomic renames."""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from stego_dist.data.storage.base import PerProcess, Storage
from stego_dist.rundir import atomic_path

MAX_OPEN_FILES = 64


class LocalStorage(Storage):
    """A folder. Ranges are positioned reads (`pread`), which never move a shared file position."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._files = PerProcess(_OpenFiles)

    @property
    def root(self) -> Path:
        """The folder."""
        return self._root

    def where(self, name: str) -> Path:
        """The file."""
        return self._root / name

    def read(self, name: str) -> bytes:
        """A whole file."""
        return self.where(name).read_bytes()

    def read_range(self, name: str, offset: int, size: int) -> bytes:
        """`size` bytes from `offset` on; fewer when the file ends before."""
        file = self._files().get(os.path.join(self._root, name))  # noqa: PTH118  held until the read is done
        return os.pread(file.fd, size, offset)

    def open(self, name: str, offset: int = 0, end: int | None = None) -> BinaryIO:
        """The file, at `offset`; a local one does not stop at `end`."""
        file = self.where(name).open("rb")
        file.seek(offset)
        return file

    def size(self, name: str) -> int | None:
        """Bytes of a file; None when there is none."""
        try:
            return self.where(name).stat().st_size
        except (FileNotFoundError, NotADirectoryError):
            return None

    def list(self, folder: str) -> list[str]:
        """Names of the files directly in `folder`, sorted."""
        place = self.where(folder)
        names = (path.name for path in place.iterdir() if path.is_file()) if place.is_dir() else ()
        return sorted(f"{folder}/{name}" if folder else name for name in names)

    def put(self, file: Path, name: str) -> None:
        """Copy a file; one that is in place already stays."""
        if file != self.where(name):
            with atomic_path(self.where(name)) as tmp:
                shutil.copyfile(file, tmp)

    def remove(self, name: str) -> None:
        """Delete a file; one that is not there is as good."""
        self.where(name).unlink(missing_ok=True)

    @contextlib.contextmanager
    def local_copy(self, name: str) -> Iterator[Path]:
        """The file itself."""
        yield self.where(name)

    @contextlib.contextmanager
    def staging(self) -> Iterator[Path]:
        """The folder itself: what is written there is renamed when it is whole."""
        yield self._root


class _OpenFiles:
    """Open files by path; the least recently used one is let go when there are too many."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._files: OrderedDict[str, _OpenFile] = OrderedDict()

    def get(self, path: str) -> _OpenFile:
        with self._lock:
            if path not in self._files:
                self._files[path] = _OpenFile(path)
                if len(self._files) > MAX_OPEN_FILES:
                    self._files.popitem(last=False)
            self._files.move_to_end(path)
            return self._files[path]


class _OpenFile:
    """A file descriptor that closes when nobody holds it, so that eviction cannot disturb a running read."""

    def __init__(self, path: str) -> None:
        self.fd = os.open(path, os.O_RDONLY)

    def __del__(self) -> None:
        if hasattr(self, "fd"):
            os.close(self.fd)
