"""Times of several things, taken in turns so that what else the machine does hits all of them alike."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path


def rates(work: Mapping[str, Callable[[], int]], repeats: int) -> dict[str, tuple[float, float]]:
    """Units a second of wall time and of this process's CPU time, the median of all repeats.

    Each function does its work once and returns how many units that was.
    """
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in work}
    for _ in range(repeats):
        for name, fn in work.items():
            wall, cpu = time.perf_counter(), time.process_time()
            units = fn()
            found[name].append((units / (time.perf_counter() - wall), units / (time.process_time() - cpu)))
    return {
        name: (statistics.median(w for w, _ in pairs), statistics.median(c for _, c in pairs))
        for name, pairs in found.items()
    }


def table(title: str, columns: list[str], rows: list[list[object]]) -> str:
    """Markdown, with the machine's load beside the title."""
    load = " ".join(Path("/proc/loadavg").read_text().split()[:3])
    lines = [f"**{title}** ({os.cpu_count()} CPUs, load {load})", "", f"| {' | '.join(columns)} |"]
    lines.append("|---" * len(columns) + "|")
    lines += [f"| {' | '.join(f'{v:.2f}' if isinstance(v, float) else str(v) for v in row)} |" for row in rows]
    return "\n".join(lines) + "\n"
