"""What every storage can do, and two things that they are made of.

A file that is not there is a FileNotFoundError; other trouble with a folder is an OSError, with a server (after the
retries that are worth it, retry.py) a UserError. All storages can be pickled and survive forks: open files and
connections belong to one process and are made when first needed.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import tempfile
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Generic, TypeVar

from stego_dist.errors import UserError

T = TypeVar("T")


class Storage(ABC):
    """A folder of files, near or far. Two are equal when they are the same place, however it is read."""

    parallel = 1
    """Reads that are worth having under way at a time: one for a disk, many where each waits for an answer."""

    @property
    @abstractmethod
    def root(self) -> Path | str:
        """The place, as errors name it: a path or a URL."""

    @abstractmethod
    def where(self, name: str) -> Path | str:
        """A file of it, as errors name it."""

    @abstractmethod
    def read(self, name: str) -> bytes:
        """A whole file."""

    @abstractmethod
    def read_range(self, name: str, offset: int, size: int) -> bytes:
        """`size` bytes from `offset` on; fewer when the file ends before."""

    @abstractmethod
    def open(self, name: str, offset: int = 0, end: int | None = None) -> BinaryIO:
        """A stream from `offset` on. Remote ones end at `end` (default: the file's), and send no more than that."""

    @abstractmethod
    def size(self, name: str) -> int | None:
        """Bytes of a file; None when there is none."""

    @abstractmethod
    def list(self, folder: str) -> list[str]:
        """Names of the files directly in `folder` ("" is the top), sorted; none when it is not there."""

    @abstractmethod
    def put(self, file: Path, name: str) -> None:
        """Copy a local file to `name`, which appears whole or not at all."""

    @abstractmethod
    def remove(self, name: str) -> None:
        """Delete a file; one that is not there is as good."""

    @abstractmethod
    def local_copy(self, name: str) -> contextlib.AbstractContextManager[Path]:
        """A local file with the content of `name`, as long as the context lasts."""

    @abstractmethod
    def staging(self) -> contextlib.AbstractContextManager[Path]:
        """A local folder to write into what `publish` will make visible: a folder's own, or one for scratch."""

    def publish(self, folder: Path, *names: str) -> None:
        """Make files of a `staging` folder visible, in this order."""
        for name in names:
            self.put(folder / name, name)

    def read_json(self, name: str, what: str, remedy: str) -> Any:
        """A JSON file. Raises UserError naming `what` it is and the `remedy` when it is missing or broken."""
        try:
            return json.loads(self.read(name).decode("utf-8"))
        except FileNotFoundError:
            raise UserError(f"{what} not found: {self.where(name)} does not exist. {remedy}") from None
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise UserError(f"{what} is damaged: {self.where(name)}: {error}. {remedy}") from None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Storage) and str(self.root) == str(other.root)

    def __hash__(self) -> int:
        return hash(str(self.root))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.root)!r})"


class PerProcess(Generic[T]):
    """A value that is made anew in every process that asks for it; it may be held by things that are pickled."""

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._state: tuple[int, threading.Lock, list[T]] = os.getpid(), threading.Lock(), []

    def __call__(self) -> T:
        state = self._state
        if state[0] != os.getpid():  # a fork: the parent's lock may have been held, its value is not ours
            state = self._state = os.getpid(), threading.Lock(), []
        _, lock, made = state
        if not made:
            with lock:
                if not made:
                    made.append(self._make())
        return made[0]

    def __reduce__(self) -> tuple[type[PerProcess[T]], tuple[Callable[[], T]]]:
        return PerProcess, (self._make,)


class RangeReader(io.RawIOBase):
    """A sequential stream made of `next_bytes(size)` calls, which give b"" at the end."""

    def __init__(self, next_bytes: Callable[[int], bytes], close: Callable[[], None] = lambda: None) -> None:
        self._next, self._close = next_bytes, close

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill a part of the buffer."""
        data = self._next(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        """Let the source go."""
        if not self.closed:
            self._close()
        super().close()


@contextlib.contextmanager
def scratch_folder() -> Iterator[Path]:
    """A folder on local scratch (TMPDIR) that vanishes."""
    with tempfile.TemporaryDirectory(prefix="stego_dist-") as folder:
        yield Path(folder)
