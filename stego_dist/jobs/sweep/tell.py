"""What a person sees of a running sweep: a live table in a terminal, plain lines in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from stego_dist import console
from stego_dist.jobs.sweep.plan import Plan, Result
from stego_dist.jobs.sweep.space import Values

SHOWN_BEST = 5
"""Finished trials in the live table, the best first, below those that run."""


@dataclass
class Running:
    """A trial that has begun."""

    values: Values
    step: int = 0
    objective: float | None = None


class Scoreboard:
    """Counts trials and shows them."""

    def __init__(self, plan: Plan, results: Mapping[int, Result], live: Live | None) -> None:
        self.plan, self.results, self.live = plan, dict(results), live
        self.running: dict[int, Running] = {}
        self.begun, self.before = time.monotonic(), len(results)

    def start(self, n: int, values: Values) -> None:
        """A trial begins, or begins again."""
        self.running[n] = Running(values)
        self._line(f"trial {n} begins: {worded(values)}")

    def report(self, n: int, step: int, objective: float | None) -> None:
        """A validation."""
        if n in self.running:
            self.running[n].step, self.running[n].objective = step, objective
        self._draw()

    def lost(self, n: int, reason: str, again: bool) -> None:
        """A trial failed or its worker died."""
        self.running.pop(n, None)
        console.warn(f"trial {n} failed{', it is tried again' if again else ' for good'}: {reason}")
        self._draw()

    def finish(self, result: Result) -> None:
        """A trial has ended."""
        self.running.pop(result.trial, None)
        self.results[result.trial] = result
        reached = "no score" if result.objective is None else f"{self.plan.objective} {result.objective:.4f}"
        how = {"done": "", "stopped": f", stopped at step {result.step}", "failed": ", failed"}[result.state]
        collapsed = ", collapsed" if result.warnings else ""
        self._line(f"trial {result.trial}: {reached}{how}{collapsed}, {result.seconds:.0f} s; {self.summary()}")

    def summary(self) -> str:
        """How many are done, which is the best, and how long it will take."""
        best = best_of(self.results)
        parts = [f"{len(self.results)}/{self.plan.trials} trials"]
        if best is not None:
            parts.append(f"best {best.objective:.4f} (trial {best.trial})")
        done = len(self.results) - self.before
        left = self.plan.trials - len(self.results)
        if done and left:
            parts.append(f"ETA {console.duration((time.monotonic() - self.begun) / done * left)}")
        return " · ".join(parts)

    def _line(self, text: str) -> None:
        if self.live is None:
            console.say(text)
        self._draw()

    def _draw(self) -> None:
        if self.live is None:
            return
        table = Table(box=None, pad_edge=False)
        for title in ("trial", "state"):
            table.add_column(title)
        for title in ("step", said(self.plan), *map(_short, self.plan.space.kinds)):
            table.add_column(title, justify="right")
        for n, running in sorted(self.running.items()):
            table.add_row(str(n), "running", str(running.step), _number(running.objective), *_cells(running.values))
        finished = sorted(self.results.values(), key=lambda r: (r.state != "done", -(r.objective or 0.0), r.trial))
        for result in finished[:SHOWN_BEST]:
            state = "collapsed" if result.warnings and result.state == "done" else result.state
            row = (str(result.trial), state, str(result.step), _number(result.objective), *_cells(result.values))
            table.add_row(*row, style="dim")
        self.live.update(Group(table, Text(self.summary())))


@contextmanager
def scoreboard(plan: Plan, results: Mapping[int, Result]) -> Iterator[Scoreboard]:
    """A table in a terminal, else lines."""
    if sys.stderr.isatty():
        with Live(console=console.err, refresh_per_second=4) as live:
            yield Scoreboard(plan, results, live)
    else:
        yield Scoreboard(plan, results, None)


def best_of(results: Mapping[int, Result]) -> Result | None:
    """The trial that reached the highest objective at its last step, the first of equals; one that was warned of a
    collapse only where all were: clusters that take features beside codes may score well though the codes are lost."""
    done = [result for result in results.values() if result.state == "done" and result.objective is not None]
    return max(done, key=lambda result: (not result.warnings, result.objective or 0.0, -result.trial), default=None)


def said(plan: Plan) -> str:
    """The objective, and whether it uses labels."""
    return "mIoU (uses labels)" if plan.uses_labels else "label-free score"


def worded(values: Mapping[str, Any]) -> str:
    """Sampled values in a line."""
    return ", ".join(f"{key}={_number(value) if isinstance(value, float) else value}" for key, value in values.items())


def _cells(values: Values) -> list[str]:
    return [_number(value) if isinstance(value, float) else str(value) for value in values.values()]


def _short(key: str) -> str:
    return ".".join(key.split(".")[-2:])


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
