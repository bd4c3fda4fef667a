"""What a person sees while a run trains: a live panel in a terminal, plain lines in a log."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

from rich.console import Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from stego_dist import console

PAIRS = ("self", "knn", "random")
Numbers = Mapping[str, float]


class View(Protocol):
    """What `training_view` yields."""

    def advance(self) -> None:
        """One more step is done."""

    def show(self, numbers: Numbers) -> None:
        """The newest logged numbers."""

    def note(self, what: str, text: str) -> None:
        """The newest text about `what` (validation, checkpoint), which stays until the next."""


class _Lines:
    """Plain lines every few seconds; notes at once."""

    def __init__(self, bar: console.Bar) -> None:
        self.bar = bar
        self.shown: dict[str, Any] = {}

    def advance(self) -> None:
        self.bar.advance(**self.shown)

    def show(self, numbers: Numbers) -> None:
        shown: dict[str, Any] = {
            name: numbers[f"loss/{name}"]
            for name in ("correspondence", "cluster", "linear")
            if f"loss/{name}" in numbers
        }
        shown["code correlation"] = "/".join(f"{numbers[f'code_correlation/{pair}']:.2f}" for pair in PAIRS)
        shown["above shift"] = "/".join(f"{numbers[f'above_shift/{pair}']:.0%}" for pair in PAIRS)
        self.shown = shown | {
            "images/s": numbers["images_per_s"],
            "wait": f"{numbers['data_wait_share']:.0%}",
            "memory": f"{numbers['memory_gb']:.1f} GB",
        }

    def note(self, what: str, text: str) -> None:
        console.say(f"{what}: {text}")


class _Panel:
    """A live panel: bar, losses and correlations by pair, rates, and the last notes."""

    def __init__(self, live: Live, total: int, done: int) -> None:
        columns = (
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("steps"),
            TimeElapsedColumn(), TextColumn("ETA"), TimeRemainingColumn(),
        )  # fmt: skip
        self.live = live
        self.progress = Progress(*columns)
        self.task = self.progress.add_task("train", total=total, completed=done)
        self.numbers: Numbers = {}
        self.notes: dict[str, str] = {}
        self._draw()

    def advance(self) -> None:
        self.progress.advance(self.task)

    def show(self, numbers: Numbers) -> None:
        self.numbers = numbers
        self._draw()

    def note(self, what: str, text: str) -> None:
        self.notes[what] = text
        self._draw()

    def _draw(self) -> None:
        parts: list[Any] = [self.progress]
        n = self.numbers
        if n:
            table = Table(box=None, pad_edge=False)
            table.add_column("pairs")
            for title in ("loss", "code correlation", "above shift"):
                table.add_column(title, justify="right")
            for pair in PAIRS:
                table.add_row(
                    pair,
                    f"{n[f'loss/{pair}']:.4f}",
                    f"{n[f'code_correlation/{pair}']:.3f}",
                    f"{n[f'above_shift/{pair}']:.0%}",
                )
            losses = [
                f"{name} {n[f'loss/{name}']:.4f}"
                for name in ("total", "correspondence", "cluster", "linear", "contrastive_crf")
                if f"loss/{name}" in n
            ]
            rates = (
                f"{n['steps_per_s']:.2f} steps/s · {n['images_per_s']:.1f} images/s · data wait "
                f"{n['data_wait_share']:.0%} · memory {n['memory_gb']:.1f} GB · skipped {n['skipped']:.0f}"
            )
            parts += [table, Text("loss " + " · ".join(losses)), Text(rates)]
        parts += [Text(f"{what}: {text}") for what, text in self.notes.items()]
        self.live.update(Group(*parts))


class _Nothing:
    """On other ranks."""

    def advance(self) -> None: ...

    def show(self, numbers: Numbers) -> None: ...

    def note(self, what: str, text: str) -> None: ...


@contextmanager
def training_view(total: int, done: int) -> Iterator[View]:
    """A view of `total` steps of which `done` are behind: a panel in a terminal, else lines; nothing on other ranks."""
    if not console.is_main_process():
        yield _Nothing()
    elif sys.stderr.isatty():
        with Live(console=console.err, refresh_per_second=4) as live:
            yield _Panel(live, total, done)
    else:
        with console.progress("train", total, "steps", done) as bar:
            yield _Lines(bar)
