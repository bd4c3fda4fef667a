"""A trace of a few training steps by torch's profiler, for chrome://tracing or ui.perfetto.dev."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile, schedule

from stego_dist import console
from stego_dist.rundir import atomic_path

BEFORE = 5
"""Steps that are not recorded: they compile, allocate and fill caches."""


@contextmanager
def profiled(folder: Path, first: int, steps: int) -> Iterator[Callable[[], None]]:
    """Record `steps` steps after BEFORE others, `first` being done already; yields what to call after each step.

    Writes `folder`/steps-FIRST-LAST.json.gz on the main process. With 0 steps nothing is recorded.
    """
    if not steps or not console.is_main_process():
        yield lambda: None
        return

    def write(finished: profile) -> None:
        path = folder / f"steps-{first + BEFORE + 1:08d}-{first + BEFORE + steps:08d}.json.gz"
        with atomic_path(path) as tmp:
            zipped = tmp.with_name(tmp.name + ".gz")  # the profiler compresses by the name's end
            finished.export_chrome_trace(str(zipped))
            zipped.replace(tmp)
        console.say(f"profile: {path}")

    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * torch.cuda.is_available()
    plan = schedule(wait=BEFORE - 1, warmup=1, active=steps, repeat=1)
    with profile(activities=activities, schedule=plan, on_trace_ready=write) as recording:
        yield recording.step
