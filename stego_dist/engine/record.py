"""What a run writes about itself while it trains: the resolved configuration, and what became of it."""

from __future__ import annotations

import shutil
import socket
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from accelerate import Accelerator

from stego_dist import console
from stego_dist.config import Config, dump_config, load_config
from stego_dist.engine import checkpoint as ckpt
from stego_dist.engine.heartbeat import Heartbeat, heartbeat
from stego_dist.engine.meeting import is_lost_contact
from stego_dist.engine.setup import MainProcessError
from stego_dist.errors import StaleInputError, UserError
from stego_dist.rundir import RunDir, atomic_path, check_fingerprint, read_json, remove_leftovers

MAY_CHANGE = (
    "run_dir", "data.workers", "data.storage.", "train.steps", "train.accumulate", "train.non_finite",
    "train.log_every", "train.checkpoint_every", "train.keep_checkpoints", "train.timeout_minutes",
    "train.validate_every", "train.panels", "train.trackers", "train.profile", "train.bank", "features.workers",
    "features.gpus_per_worker", "features.batch_size", "features.compile", "knn.memory_gb", "knn.backend", "eval.",
)  # fmt: skip
"""Settings that may differ when a run is resumed."""
MAIN_FIRST_S = 2.0
"""What another process than the main one waits before it says of a lost contact: both may notice at the same instant,
and what the main process says must not be written over."""


class LostContactError(UserError):
    """Another process of the run is gone or does not answer."""


def prepare_run_dir(run: RunDir, config: Config, accelerator: Accelerator, resume: bool, overwrite: bool) -> None:
    """Refuse to mix two runs; on the main process write the resolved configuration and that the run is running.

    A run that failed before it saved anything is simply begun again.
    """
    begun = bool(ckpt.available(run.checkpoints)) or run.model.exists()
    if begun and not overwrite:
        if not resume:
            raise UserError(
                f"{run.root} already holds a run; continue it with --resume, or start anew with --overwrite"
            )
        refuse_other_settings(run, config)
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        for folder in (run.root, run.checkpoints):
            remove_leftovers(folder)
        if overwrite or not begun:
            for path in (run.checkpoints, run.panels, run.samples, run.tensorboard, run.profile):
                shutil.rmtree(path, ignore_errors=True)
            for path in (run.metrics, run.model, run.results, run.trial, run.status, run.calibration):
                path.unlink(missing_ok=True)
        with atomic_path(run.config) as tmp:
            tmp.write_text(dump_config(config), "utf-8")
        run.write_status("running", step=ckpt.newest_step(run.checkpoints), exit_code=None)
    accelerator.wait_for_everyone()


def refuse_other_settings(run: RunDir, config: Config) -> None:
    """Raise StaleInputError naming the settings that a run which was begun must keep, and that differ now."""
    check_fingerprint(
        _lasting(load_config(run.config)),
        _lasting(config),
        f"the run {run.root}",
        "Resume with the run's own settings (they are in its config.yaml), or start anew with --overwrite.",
    )


def check_backbone(run: RunDir, digest: str) -> None:
    """Raise StaleInputError when the backbone's weights are not those that the run was trained with."""
    trained = read_json(run.provenance, "the run's provenance", "Train the run again.")["inputs"]["backbone weights"]
    if trained != digest:
        raise StaleInputError(
            f"{run.root} was trained on a backbone with other weights (sha256 {trained[:12]}… then, {digest[:12]}… "
            "now); point backbone.weights to the file that it was trained with"
        )


def settings(config: Config) -> dict[str, Any]:
    """All settings, flat: `section.key` → value."""
    flat: dict[str, Any] = {}

    def walk(prefix: str, value: Any) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                walk(f"{prefix}.{key}" if prefix else key, inner)
        else:
            flat[prefix] = value

    walk("", config.model_dump(mode="json"))
    return flat


def _lasting(config: Config) -> dict[str, Any]:
    """Those that must not change when a run is resumed."""
    return {key: value for key, value in settings(config).items() if not key.startswith(MAY_CHANGE)}


def explained(error: BaseException, run: RunDir, accelerator: Accelerator, others: Heartbeat) -> BaseException:
    """The same error, or a UserError that says what a broken connection to another process means."""
    if accelerator.num_processes == 1 or not is_lost_contact(error):
        return error
    reason = str(error).strip().splitlines()[0][:200]
    return lost_contact(others.findings() or "which one can't be told", run, accelerator, f" ({reason})")


def lost_contact(finding: str, run: RunDir, accelerator: Accelerator, reason: str = "") -> LostContactError:
    """The error that says what a silent or a broken connection means; `finding` names the process."""
    newest = ckpt.available(run.checkpoints)
    return LostContactError(
        f"process {accelerator.process_index} of {accelerator.num_processes} lost contact with another one: {finding}. "
        "It failed, was killed (out of memory?), its machine or network went away, or it did not answer within "
        f"train.timeout_minutes; its own output says more. This is said on {socket.gethostname()}. "
        f"{f'The newest checkpoint is {newest[-1]}' if newest else 'There is no checkpoint yet'}: start again with "
        f"--resume.{reason}"
    )


def watched(
    run: RunDir, accelerator: Accelerator, timeout_minutes: float, known: Callable[[], dict[str, Any]]
) -> AbstractContextManager[Heartbeat]:
    """The heartbeat of a run: when a process is silent the others record it and end; `known`: more of status.json."""

    def lost(finding: str) -> None:
        error = lost_contact(finding, run, accelerator)
        console.fail(error)
        record_failure(run, accelerator, error, **known())

    return heartbeat(accelerator.process_index, accelerator.num_processes, timeout_minutes * 60, lost)


def record_failure(run: RunDir, accelerator: Accelerator, error: BaseException, **known: Any) -> None:
    """Write status.json for a run that raised `error`; `known` are more of its fields.

    The first one that fails does it, for the main process may be dead, or only see that its peer is gone; after that
    the main process alone, with an error of its own, or with what it says of a lost contact in place of what another
    process says of it. `lost_contact` tells whoever launched the run that it is worth being started again. A disk that
    is full must not hide the error itself.
    """
    if isinstance(error, MainProcessError):
        return
    interrupted, lost = isinstance(error, KeyboardInterrupt), isinstance(error, LostContactError)
    if lost and not accelerator.is_main_process:
        time.sleep(MAIN_FIRST_S)
    try:
        before = read_json(run.status, "the run's status", "")
        mine = accelerator.is_main_process and (not lost or before.get("lost_contact", False))
        if before["state"] != "running" and not mine:
            return
        run.write_status(
            "interrupted" if interrupted else "failed",
            exit_code=130 if interrupted else getattr(error, "exit_code", 1),
            error=f"{type(error).__name__}: {error}",
            lost_contact=lost,
            **known,
        )
    except (OSError, UserError) as second:
        console.warn(f"{run.status} could not be written: {second}")
