"""A trial of a sweep: one run, trained and evaluated in this process, as numbers.

In: a configuration. Out: flat numbers, by the names below. Any number of trials may follow one another in a process, on
any of its threads; they take turns.

    val/…                         what validation says of the finished model (val/label_free, val/information, …)
    miou, accuracy                of the headline clusters (eval.clusters), with labels
    NAME/miou, NAME/accuracy      of every measure: kmeans, learned, linear
    seconds/train                 spent on steps, waiting for batches included
    seconds/overhead              the rest of the trial: opening, validations, checkpoints, clusters, evaluation
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from stego_dist.config import Config
from stego_dist.engine.evaluate import evaluate
from stego_dist.engine.label_free import LabelFree
from stego_dist.engine.opened import Opened, keep_opened
from stego_dist.engine.record import refuse_other_settings, settings
from stego_dist.engine.setup import make_accelerator
from stego_dist.engine.train import train_on
from stego_dist.engine.validate import Validator
from stego_dist.errors import UserError
from stego_dist.models.segmenter import Segmenter
from stego_dist.rundir import RunDir, read_json, read_metrics, write_json

FORMAT = "stego_dist.trial/1"
_TURN = threading.Lock()
"""Accelerate keeps the state of one Accelerator a process."""


def run_trial(config: Config, *, report: Callable[[int, dict[str, float]], None] | None = None) -> dict[str, float]:
    """Train the run of `config` and evaluate it; returns its numbers.

    A run directory that was begun is continued from its newest checkpoint, one that is finished is only evaluated, and
    one that was evaluated with the same settings is only read. Times are those of the call that did the work.

    report: is told the step and the numbers of every validation, again for steps that are trained again. What it raises
    ends the trial: the run is saved, its status.json says "stopped", and a later call continues it.

    Raises UserError, also when a signal stops the training (which is saved); ConfigError; StaleInputError for a run
    directory of other settings.
    """
    with _TURN:
        return _run(config, report)


def _run(config: Config, report: Callable[[int, dict[str, float]], None] | None) -> dict[str, float]:
    start, run = time.perf_counter(), RunDir(Path(config.run_dir))
    kept = _kept(run, config)
    if kept is not None:
        return kept
    seconds = 0.0
    accelerator = make_accelerator(config.train.precision, config.train.timeout_minutes)
    opened = keep_opened(config, accelerator.device)
    try:
        if not is_trained(run, config):
            trained = train_on(accelerator, config, resume=True, report=report, opened=opened)
            seconds = trained.seconds
            if trained.exit_code:
                raise UserError(f"a signal stopped the trial {run.root}; it is saved: run it again to continue it")
        numbers = _numbers(config, run, accelerator, opened)
    finally:
        accelerator.end_training()
    numbers |= {"seconds/train": seconds, "seconds/overhead": time.perf_counter() - start - seconds}
    write_json(run.trial, {"format": FORMAT, "settings": _deciding(config), "numbers": numbers})
    return numbers


def _kept(run: RunDir, config: Config) -> dict[str, float] | None:
    """The numbers of a trial that was done before with the same settings."""
    if not run.trial.exists():
        return None
    trial = read_json(run.trial, "the trial's numbers", "Remove the file: the trial is evaluated again.")
    same = trial.get("format") == FORMAT and trial["settings"] == _deciding(config) and is_trained(run, config)
    return dict(trial["numbers"]) if same else None


def _deciding(config: Config) -> dict[str, Any]:
    """The settings, flat, without where the run lies."""
    return {key: value for key, value in settings(config).items() if key != "run_dir"}


def is_trained(run: RunDir, config: Config) -> bool:
    """Whether the run is finished. Raises StaleInputError when it is one of other settings."""
    if not run.model.exists() or not run.status.exists():
        return False
    refuse_other_settings(run, config)
    status = read_json(run.status, "the run's status", "Remove the run and train it again.")
    return bool(status["state"] == "done" and status["step"] >= config.train.steps)


def _told(run: RunDir) -> dict[str, float]:
    """What the last validation said of the weights that became the model, and training's end of its clusters; nothing
    where validation was off or came before the last step."""
    meta = Segmenter.load(run.model)[1]
    lines = [line for line in read_metrics(run.metrics) if line["step"] == meta["step"] and "val/seconds" in line]
    if not lines or "label_free" not in meta:
        return {}
    numbers = {name: value for name, value in lines[-1].items() if name.startswith("val/") and value is not None}
    return numbers | {f"val/{name}": value for name, value in meta["label_free"].items()}


def _numbers(config: Config, run: RunDir, accelerator: Accelerator, opened: Opened) -> dict[str, float]:
    """Validation and evaluation of the finished model; none of a shard set without the split."""
    segmenter = Segmenter.load(run.model)[0].to(accelerator.device)
    if config.data.eval_split not in opened.shard_set.splits:
        return LabelFree(config, accelerator, opened)(segmenter, "kmeans")
    numbers = _told(run)
    if not numbers:
        validator = Validator(config, accelerator, segmenter, opened)
        numbers = dict(validator().numbers)
        numbers |= validator.score(segmenter, config.eval.clusters)
    numbers.pop("val/seconds", None)
    results = evaluate(config, accelerator, segmenter, opened.backbone, brief=True, opened=opened).results
    measures = results.get("measures", {})
    for name, found in {"": measures.get(results["headline_clusters"], {}), **measures}.items():
        for key in ("miou", "accuracy"):
            if found.get(key) is not None:
                numbers[f"{name}/{key}" if name else key] = found[key]
    return numbers
