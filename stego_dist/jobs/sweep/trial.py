"""One trial, where it runs: trained and evaluated in this process, or trained by `accelerate launch`, evaluated here.

A pure function of the sweep's folder and the number of the trial. What was begun goes on from its newest checkpoint, so
a trial that is repeated after a death reaches what it would have reached; its last act is to write result.json.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path

import torch

from stego_dist.config import load_config
from stego_dist.engine.trial import run_trial
from stego_dist.errors import UserError
from stego_dist.jobs.sweep.launch import train_launched
from stego_dist.jobs.sweep.plan import NUMBERS, Folder, Objective, Result, read_plan
from stego_dist.rundir import RunDir, read_json, read_metrics

Report = Callable[[int, dict[str, float]], None]
"""Is told step and numbers of every validation; what it raises ends the trial."""
Work = Callable[[Path, int, Report], Result]
"""`perform`, or the same with something going wrong."""


def perform(root: Path, n: int, report: Report) -> Result:
    """Run trial n of the sweep in the folder `root`; returns and writes its result.

    `report` is told `{"objective": …}` at every validation but that of the last step, which the result follows.
    Raises UserError for what a user can mend.
    """
    start, folder = time.time(), Folder(root)
    plan, run = read_plan(folder), folder.run(n)
    if (known := folder.read_result(n)) is not None:
        return known
    config, name = load_config(folder.config(n)), NUMBERS[plan.objective][1]

    def told(step: int, numbers: dict[str, float]) -> None:
        value = numbers.get(name, math.nan)
        if step < config.train.steps and math.isfinite(value):
            report(step, {"objective": value})

    if plan.processes > 1 and not run.model.exists():
        train_launched(folder.config(n), run, plan.processes, told, torch.get_num_threads())
    numbers = run_trial(config, report=told)
    objective = numbers.get(NUMBERS[plan.objective][0], math.nan)
    if not math.isfinite(objective):
        raise UserError(f"trial {n} has no {plan.objective} score: {_why(plan.objective, config.data.eval_split)}")
    result = Result(
        trial=n,
        state="done",
        values=folder.values(n) or {},
        objective=objective,
        step=config.train.steps,
        numbers={key: value for key, value in numbers.items() if math.isfinite(value)},
        curve=curve_of(run, plan.objective),
        warnings=collapse_of(run),
        seconds=time.time() - start,
        finished=time.time(),
    )
    folder.write_result(result)
    return result


def curve_of(run: RunDir, objective: Objective) -> list[tuple[int, float]]:
    """Step and objective of each validation of a run."""
    key = NUMBERS[objective][1]
    return [(line["step"], line[key]) for line in read_metrics(run.metrics) if line.get(key) is not None]


def collapse_of(run: RunDir) -> list[str]:
    """What the run was warned of: a sentence for each kind of collapse."""
    if not run.status.exists():
        return []
    return list(read_json(run.status, "the run's status", "").get("warnings", []))


def _why(objective: Objective, split: str) -> str:
    if objective == "miou":
        return f"it needs labels in the split {split} (data.eval_split)"
    return "the loss may have left the finite numbers; see its run's metrics.jsonl"
