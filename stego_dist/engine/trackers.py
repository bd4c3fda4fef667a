"""Where numbers go beside metrics.jsonl: TensorBoard and the other trackers that Accelerate knows."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

from accelerate import Accelerator
from accelerate.tracking import LOGGER_TYPE_TO_CLASS

from stego_dist.config import Config
from stego_dist.engine.record import settings
from stego_dist.errors import UserError
from stego_dist.rundir import RunDir

PACKAGES = {"comet_ml": "comet-ml"}
"""What pip installs, where it differs from what is imported."""
PROJECT = "stego_dist"


def start_trackers(config: Config, run: RunDir, accelerator: Accelerator, step: int) -> None:
    """Start train.trackers on the main process; what was written of steps after `step` is superseded.

    Raises UserError naming the package that a tracker lacks.
    """
    for name in config.train.trackers:
        if find_spec(name) is None:
            raise UserError(
                f"train.trackers: {name} needs a package that is not installed: pip install "
                f"{PACKAGES.get(name, name)}; or leave it out, train.trackers=[tensorboard]"
            )
    if not accelerator.is_main_process:
        return
    for name in config.train.trackers:
        kind = LOGGER_TYPE_TO_CLASS[name]
        if name == "tensorboard":
            tracker = kind(run.tensorboard.name, run.root, purge_step=step + 1)
        elif kind.requires_logging_directory:
            tracker = kind(PROJECT, run.root)
        else:
            tracker = kind(PROJECT, **({"name": config.name, "dir": str(run.root)} if name == "wandb" else {}))
        tracker.start()
        if name != "tensorboard":  # there it would be a table of hyperparameters, one more folder at every start
            tracker.store_init_configuration(settings(config))
        accelerator.trackers.append(tracker)


def track(accelerator: Accelerator, numbers: Mapping[str, Any], step: int) -> None:
    """Send numbers to all trackers (the main process has them)."""
    for tracker in accelerator.trackers:
        tracker.log({key: value for key, value in numbers.items() if key != "step"}, step=step)
