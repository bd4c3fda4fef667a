"""What a person sees: one rich console, on the main process; plain lines when it is not a terminal.

stdout is kept for results (tables, `--json`); progress and notices go to stderr.
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

PLAIN_INTERVAL_S = 5.0


def is_main_process() -> bool:
    """True on rank 0 and outside of any launcher."""
    return int(os.environ.get("RANK", "0")) == 0


out = Console(file=None, soft_wrap=False, emoji=False)
err = Console(stderr=True, emoji=False)


def say(message: str, *, style: str | None = None) -> None:
    """A notice on stderr, from the main process only."""
    if is_main_process():
        err.print(message, style=style, highlight=False, markup=False, soft_wrap=True)


def warn(message: str) -> None:
    """A warning on stderr, from the main process only."""
    say(f"warning: {message}", style="yellow")


def fail(error: object) -> None:
    """What went wrong, on stderr, from any process."""
    err.print(f"error: {error}", style="red", markup=False, highlight=False, emoji=False, soft_wrap=True)


class Bar(Protocol):
    """What `progress` yields."""

    def advance(self, n: int = 1, **fields: Any) -> None:
        """Count `n` more done; `fields` are shown behind the bar as `name value`."""


class _RichBar:
    def __init__(self, progress: Progress, task: Any) -> None:
        self._progress, self._task = progress, task

    def advance(self, n: int = 1, **fields: Any) -> None:
        self._progress.update(self._task, advance=n, detail=_detail(fields))


class _Speed(ProgressColumn):
    """Units a second, once they are known."""

    def __init__(self, unit: str) -> None:
        super().__init__()
        self.unit = unit

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.1f} {self.unit}/s")


class _PlainBar:
    """A line every few seconds, for logs."""

    def __init__(self, title: str, total: int, unit: str, done: int) -> None:
        self.title, self.total, self.unit, self.done = title, total, unit, done
        self.first, self.start, self.last = done, time.monotonic(), time.monotonic()

    def advance(self, n: int = 1, **fields: Any) -> None:
        self.done += n
        now = time.monotonic()
        if now - self.last < PLAIN_INTERVAL_S and self.done < self.total:
            return
        self.last = now
        rate = (self.done - self.first) / max(now - self.start, 1e-9)
        eta = (self.total - self.done) / max(rate, 1e-9)
        line = f"{self.title} {self.done}/{self.total} · {rate:.1f} {self.unit}/s · ETA {eta:.0f} s"
        say(f"{line} {_detail(fields)}".rstrip())


class _NoBar:
    def advance(self, n: int = 1, **fields: Any) -> None:
        del n, fields


def _detail(fields: dict[str, Any]) -> str:
    if not fields:
        return ""
    return "· " + " · ".join(f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in fields.items())


@contextmanager
def progress(title: str, total: int, unit: str = "images", done: int = 0) -> Iterator[Bar]:
    """A progress bar on the main process: bar, count, rate, ETA; plain lines when stderr is no terminal."""
    if not is_main_process():
        yield _NoBar()
    elif not sys.stderr.isatty():
        yield _PlainBar(title, total, unit, done)
    else:
        columns = (
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn(unit),
            _Speed(unit), TimeElapsedColumn(), TextColumn("ETA"), TimeRemainingColumn(),
            TextColumn("{task.fields[detail]}"),
        )  # fmt: skip
        with Progress(*columns, console=err) as bar:
            yield _RichBar(bar, bar.add_task(title, total=total, completed=done, detail=""))


def duration(seconds: float) -> str:
    """Seconds in the unit a person would take."""
    for limit, unit, size in ((120, "s", 1), (7200, "min", 60), (172_800, "h", 3600), (63_072_000, "days", 86400)):
        if seconds < limit:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 31_536_000:,.0f} years"


def size(count: float) -> str:
    """Bytes in the unit a person would take (powers of ten)."""
    units = ("B", "kB", "MB", "GB", "TB", "PB")
    power = min(len(units) - 1, max(0, math.floor(math.log10(max(count, 1.0) * 1.0005) / 3)))
    return f"{count / 1000**power:,.3g} {units[power]}"
