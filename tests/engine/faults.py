"""Commands that run with something going wrong, on ranks that tests/ranks.py starts."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import safetensors.torch
import torch

from stego_dist.cli import main
from stego_dist.engine import clusters, validate
from stego_dist.engine.feed import Batch
from stego_dist.engine.learner import Learner
from stego_dist.engine.monitor import Monitor


def command(fault: str | None, *arguments: str) -> int:
    """Run a command line with a fault: the name of a function below, with an argument behind a colon."""
    if fault is not None:
        name, _, argument = fault.partition(":")
        FAULTS[name](argument)
    return main(arguments)


def die_in_checkpoint(step: str) -> None:
    """The main process is killed when the first file of this step's checkpoint is written."""
    save = safetensors.torch.save_file

    def killing(tensors, path, *rest, **more):
        save(tensors, path, *rest, **more)
        if f"step-{int(step):08d}" in str(path):
            os.kill(os.getpid(), signal.SIGKILL)

    safetensors.torch.save_file = killing


def _after_step(step: str, do: Callable[[], None]) -> None:
    counted = Monitor.step

    def wrapped(self, *arguments):
        counted(self, *arguments)
        if self.state.step == int(step):
            do()

    Monitor.step = wrapped


def die_on_rank_1(step: str) -> None:
    """Rank 1 is killed after this step."""
    if os.environ["RANK"] == "1":
        _after_step(step, lambda: os.kill(os.getpid(), signal.SIGKILL))


def hang_on_rank_1(step: str) -> None:
    """Rank 1 does nothing for a while after this step."""
    if os.environ["RANK"] == "1":
        _after_step(step, lambda: time.sleep(22))


def freeze_rank_1(step: str) -> None:
    """Rank 1 stops as a machine does that is cut off, all its threads, after this step; later it goes on."""

    def freeze() -> None:
        subprocess.Popen(["sh", "-c", f"sleep 15; kill -CONT {os.getpid()}"])
        os.kill(os.getpid(), signal.SIGSTOP)

    if os.environ["RANK"] == "1":
        _after_step(step, freeze)


def terminate_in_validation(step: str) -> None:
    """SIGTERM comes to rank 0 while it validates after this step."""
    validated = validate.Validator.__call__

    def wrapped(self, check):
        if steps[-1] == int(step):
            os.kill(os.getpid(), signal.SIGTERM)
        return validated(self, check)

    steps = [0]
    if os.environ.get("RANK", "0") == "0":
        validate.Validator.__call__ = wrapped
        _after_step(step, lambda: steps.append(int(step)))


def terminate_in_kmeans(_: str) -> None:
    """SIGTERM comes while k-means runs, which would take a minute and hears nothing."""

    def endless(*arguments, **more):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)

    clusters.spherical_kmeans = endless


def small_files(size: str) -> None:
    """No file may grow beyond so many bytes, from the third step on."""
    _after_step("3", lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (int(size), resource.RLIM_INFINITY)))


def fill_disk(folder: str) -> None:
    """The file system of `folder` has no byte left, from the third step on."""

    def fill() -> None:
        with (Path(folder) / "filler").open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(b"x" * 512)
            except OSError:
                pass

    _after_step("3", fill)


def _spoil(what: Callable[[Batch, slice, int], None]) -> None:
    """Apply `what` to batches, with their rows that belong to the second half of the global batch, and the step."""
    gradients = Learner.gradients

    def wrapped(self, batch, step):
        first = max(0, self.config.train.batch_size // 2 - self.slots.start)
        what(batch, slice(first, None), step)
        return gradients(self, batch, step)

    Learner.gradients = wrapped


def half_without_labels(_: str) -> None:
    """Images of the second half of every batch have no labelled pixel."""
    _spoil(lambda batch, half, step: batch.labels[half].fill_(255))


def not_finite(step: str) -> None:
    """Features of the second half of this step's batch (counted from 0) are not numbers."""

    def spoil(batch, half, now) -> None:
        if now == int(step):
            batch.anchors[half].fill_(torch.nan)

    _spoil(spoil)


FAULTS: dict[str, Callable[[str], None]] = {
    f.__name__: f
    for f in (
        die_in_checkpoint, die_on_rank_1, hang_on_rank_1, freeze_rank_1, terminate_in_validation,
        terminate_in_kmeans, small_files, fill_disk, half_without_labels, not_finite,
    )
}  # fmt: skip
