"""A run's checkpoints: what of its parts is saved to go on from, and how they get it back."""

from __future__ import annotations

from pathlib import Path

import torch
from accelerate import Accelerator

from stego_dist import console
from stego_dist.config import Config
from stego_dist.engine import checkpoint as ckpt
from stego_dist.engine.state import RunState
from stego_dist.models.segmenter import Segmenter
from stego_dist.rundir import RunDir, drop_metrics_after


def save_run(
    config: Config, run: RunDir, accelerator: Accelerator, segmenter: Segmenter, optimiser: torch.optim.Optimizer,
    state: RunState,
) -> Path:  # fmt: skip
    """Write a checkpoint, on the main process; returns where it lies. Raises UserError where it can't be written."""
    scaler = accelerator.scaler
    extra = {
        "run": state.to_json(),
        "processes": accelerator.num_processes,
        "scaler": scaler.state_dict() if scaler is not None else None,
    }
    selected = state.selected.step if state.selected else None
    saved = ckpt.Checkpoint(state.step, segmenter.state_dict(), ckpt.flatten_optimiser(optimiser), extra)
    return ckpt.save(run.checkpoints, saved, config.train.keep_checkpoints, also=selected)


def restore_run(
    run: RunDir, accelerator: Accelerator, segmenter: Segmenter, optimiser: torch.optim.Optimizer
) -> RunState:
    """Continue from the newest whole checkpoint: fill model and optimiser, drop later metrics. Without one: step 0."""
    saved = ckpt.load_newest(run.checkpoints)
    if saved is None:
        return RunState()
    segmenter.load_state_dict(saved.model)
    ckpt.restore_optimiser(optimiser, saved.optimiser)
    if accelerator.scaler is not None and saved.extra["scaler"]:
        accelerator.scaler.load_state_dict(saved.extra["scaler"])
    if accelerator.is_main_process:
        drop_metrics_after(run.metrics, saved.step)
    before, now = saved.extra["processes"], accelerator.num_processes
    what = f"{run.root}, a run of {before} process(es), on {now}" if before != now else f"{run.root}"
    console.say(f"resuming {what} after step {saved.step}")
    return RunState.from_json(saved.step, saved.extra["run"])
