"""What the tests of sweeps share: a tiny plan, results without times, and trials in which something goes wrong."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import ray

from stego_dist.jobs.sweep.plan import Folder, Plan, Result
from stego_dist.jobs.sweep.space import DEFAULT, Space
from stego_dist.jobs.sweep.trial import Report, Work, perform
from tests.tiny import config_at

LIMIT_S = 180.0
TRIAL, STEP = 2, 4
"""Where something goes wrong."""


def plan_at(root: Path, *overrides: str, **more: Any) -> Plan:
    """A plan of four trials with three validations each, over the loss."""
    more = {"trials": 4, **more}
    return Plan(config_at(root, "train.validate_every=2", "train.panels=1", *overrides), Space(DEFAULT), **more)


def lasting(folder: Folder) -> dict[int, dict[str, Any]]:
    """Results without times."""
    found = {}
    for n, result in folder.results().items():
        numbers = {key: value for key, value in result.numbers.items() if not key.startswith("seconds/")}
        found[n] = {**asdict(result), "numbers": numbers, "seconds": None, "finished": None}
    return found


def at_a_validation(what: Callable[[Path], None], root: Path, n: int, report: Report) -> Result:
    """A trial in which `what` happens at a validation, the first time that it is reached."""

    def told(step: int, numbers: dict[str, float]) -> None:
        if (n, step) == (TRIAL, STEP) and not (root / "happened").exists():
            (root / "happened").touch()
            what(root)
        report(step, numbers)

    return perform(root, n, told)


def die(root: Path) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def wait(root: Path) -> None:
    """Say on which node, and wait for its end."""
    (root / "node.tmp").write_text(ray.get_runtime_context().get_node_id())
    (root / "node.tmp").rename(root / "node")
    time.sleep(LIMIT_S)


def waiting_node(root: Path, driver: subprocess.Popen[Any] | None = None) -> str:
    """The node of `wait`, once it is known; `driver` is what runs the sweep, if it is another process."""
    end = time.monotonic() + LIMIT_S
    while not (root / "node").exists():
        assert time.monotonic() < end and (driver is None or driver.poll() is None), "the trial was not begun"
        time.sleep(0.02)
    return (root / "node").read_text()


def scripted(root: Path, n: int, report: Report) -> Result:
    """A trial that trains nothing: even ones rise to 1, odd ones stay at 0; it notes who it was."""
    folder = Folder(root)
    values, level = folder.values(n) or {}, 0.0 if n % 2 else 1.0
    run = folder.run(n)
    run.root.mkdir(parents=True, exist_ok=True)
    with (folder.trial(n) / "pids").open("a") as pids:
        pids.write(f"{os.getpid()}\n")
    curve = []
    with run.metrics.open("a") as metrics:
        for step in range(1, 6):
            curve.append((step, level * step / 6))
            metrics.write(f'{{"step": {step}, "val/label_free": {level * step / 6}}}\n')
            metrics.flush()
            report(step, {"objective": level * step / 6})
    result = Result(n, "done", values, level, 6, {"val/label_free": level}, curve, finished=time.time())
    folder.write_result(result)
    return result


def complaining(root: Path, n: int, report: Report) -> Result:
    """Trial 1 fails at every try, trial 2 at its first."""
    from stego_dist.errors import UserError

    tries = Folder(root).trial(n) / "tries"
    with tries.open("a") as file:
        file.write("x")
    if n == 1:
        raise UserError("the images of trial 1 are gone")
    if n == 2 and tries.stat().st_size == 1:
        raise ValueError("once only")
    return scripted(root, n, report)


WORK: dict[str, Work] = {"scripted": scripted, "complaining": complaining}
