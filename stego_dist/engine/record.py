"""What a run writes about itself while it trains: the resolved configuration and metrics.jsonl."""

from __future__ import annotations

import shutil
from typing import Any

from accelerate import Accelerator

from stego_dist.config import Config, dump_config, load_config
from stego_dist.engine import checkpoint as ckpt
from stego_dist.errors import UserError
from stego_dist.rundir import RunDir, atomic_path, check_fingerprint

MAY_CHANGE = (
    "run_dir", "data.workers", "data.storage.", "train.steps", "train.log_every", "train.checkpoint_every",
    "train.keep_checkpoints", "features.workers", "features.gpus_per_worker", "features.batch_size",
    "features.compile", "knn.memory_gb", "knn.backend", "eval.",
)  # fmt: skip
"""Settings that may differ when a run is resumed."""


def prepare_run_dir(run: RunDir, config: Config, accelerator: Accelerator, resume: bool, overwrite: bool) -> None:
    """Refuse to mix two runs; on the main process write the resolved configuration.

    A run that failed before it saved anything is simply begun again.
    """
    begun = bool(ckpt.available(run.checkpoints)) or run.model.exists()
    if begun and not overwrite:
        if not resume:
            raise UserError(
                f"{run.root} already holds a run; continue it with --resume, or start anew with --overwrite"
            )
        check_fingerprint(
            _settings(load_config(run.config)),
            _settings(config),
            f"the run {run.root}",
            "Resume with the run's own settings (they are in its config.yaml), or start anew with --overwrite.",
        )
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        if overwrite or not begun:
            for path in (run.checkpoints, run.panels):
                shutil.rmtree(path, ignore_errors=True)
            for path in (run.metrics, run.model, run.results, run.status):
                path.unlink(missing_ok=True)
        with atomic_path(run.config) as tmp:
            tmp.write_text(dump_config(config), "utf-8")
    accelerator.wait_for_everyone()


def _settings(config: Config) -> dict[str, Any]:
    """All settings that must not change when a run is resumed, flat."""
    flat: dict[str, Any] = {}

    def walk(prefix: str, value: Any) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                walk(f"{prefix}.{key}" if prefix else key, inner)
        elif not prefix.startswith(MAY_CHANGE):
            flat[prefix] = value

    walk("", config.model_dump(mode="json"))
    return flat
