"""Checkpoints to resume from: model, optimiser and step, atomic, without pickle.

`checkpoints/step-00000500/` holds model.safetensors, optimiser.safetensors and state.json, which is written last and
names the checksums of the other two. Everything random is a function of (seed, step), so nothing else is needed and
the number of ranks may change.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from stego_dist import console
from stego_dist.errors import UserError
from stego_dist.rundir import atomic_path, read_json, sha256_file, write_json

FILES = ("model.safetensors", "optimiser.safetensors")


@dataclass(frozen=True)
class Checkpoint:
    """The state after `step` finished steps."""

    step: int
    model: dict[str, Tensor]
    optimiser: dict[str, Tensor]
    """Flat: `{parameter number}.{name}`."""
    extra: dict[str, Any]
    """JSON-able: counters, what validation selected, warnings, the gradient scaler's state."""


def path_of(root: Path, step: int) -> Path:
    """Where the checkpoint after `step` steps lies."""
    return root / f"step-{step:08d}"


def save(root: Path, checkpoint: Checkpoint, keep: int, *, also: int | None = None) -> Path:
    """Write a checkpoint below `root`; delete all but the newest `keep` and that of step `also`.

    Raises UserError: disk full, not writable.
    A failed write leaves the earlier checkpoints as they are.
    """
    path = path_of(root, checkpoint.step)
    try:
        with atomic_path(path) as tmp:
            tmp.mkdir(parents=True)
            for name, tensors in zip(FILES, (checkpoint.model, checkpoint.optimiser)):
                cpu = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
                safetensors.torch.save_file(cpu, tmp / name)
            checksums = {name: sha256_file(tmp / name) for name in FILES}
            write_json(tmp / "state.json", {"step": checkpoint.step, "files": checksums, "extra": checkpoint.extra})
    except (OSError, safetensors.SafetensorError) as error:
        newest = available(root)
        at = f"the last complete one is {newest[-1]}" if newest else "there is none yet"
        raise UserError(f"could not write checkpoint {path}: {error}; {at}; free space and resume") from None
    for old in available(root)[:-keep]:
        if also is None or old != path_of(root, also):
            shutil.rmtree(old)
    return path


def available(root: Path) -> list[Path]:
    """Complete-looking checkpoints, oldest first."""
    return sorted(path.parent for path in root.glob("step-*/state.json"))


def newest_step(root: Path) -> int:
    """The step of the newest checkpoint that looks complete; 0 when there is none."""
    found = available(root)
    return int(found[-1].name.removeprefix("step-")) if found else 0


def load_newest(root: Path) -> Checkpoint | None:
    """The newest checkpoint that is whole; a damaged one is passed over with a warning. None when there is none."""
    for path in reversed(available(root)):
        try:
            return load(path)
        except (UserError, OSError, KeyError, safetensors.SafetensorError) as error:
            console.warn(f"checkpoint {path} is damaged ({error}); falling back to the one before")
    return None


def load(path: Path) -> Checkpoint:
    """Read one checkpoint. Raises UserError, OSError, KeyError or SafetensorError when it is damaged."""
    state = read_json(path / "state.json", "the checkpoint's state", "The one before is used.")
    for name in FILES:
        if sha256_file(path / name) != state["files"][name]:
            raise UserError(f"{name} does not match its checksum")
    model, optimiser = (safetensors.torch.load_file(path / name) for name in FILES)
    return Checkpoint(state["step"], model, optimiser, state["extra"])


def flatten_optimiser(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's per-parameter state as a flat dictionary of tensors."""
    state = optimiser.state_dict()["state"]
    return {f"{number}.{name}": value for number, entry in state.items() for name, value in entry.items()}


def restore_optimiser(optimiser: torch.optim.Optimizer, flat: dict[str, Tensor]) -> None:
    """The reverse; learning rates stay as configured."""
    state = optimiser.state_dict()
    entries: dict[int, dict[str, Tensor]] = {}
    for key, value in flat.items():
        number, name = key.split(".", 1)
        entries.setdefault(int(number), {})[name] = value.clone()
    optimiser.load_state_dict({**state, "state": entries})
