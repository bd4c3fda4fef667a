"""Backbone weights from a file: official DINO, MoCo v2, timm, or any plain state dict.

Files are read without executing anything in them (safetensors, or torch.load with weights_only).
"""

from __future__ import annotations

import argparse
import pickle
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from stego_dist.errors import UserError

CONTAINERS = ("teacher", "state_dict", "model")
PREFIXES = ("module.", "encoder_q.", "backbone.")
CLASSIFIERS = ("head.", "fc.", "classifier.")
Allowed = Callable[..., Any] | tuple[Callable[..., Any], str]
"""A class that may be unpickled, or one that stands in for the class of this name."""
TRAINING_CHECKPOINT: tuple[Allowed, ...] = (argparse.Namespace,)
"""The training checkpoints of DINO and of PiCIE hold their arguments."""


def load_state(model: nn.Module, path: Path) -> None:
    """Load a file into `model`, strictly, after unwrapping it and dropping classifier heads.

    Raises UserError when the file is missing, damaged, or its keys or shapes are not the model's.
    """
    state, wanted = unwrap_state(read_tensors(path)), model.state_dict()
    state = {k: v for k, v in state.items() if k in wanted or not k.startswith(CLASSIFIERS)}
    load_tensors(model, state, f"backbone.weights: {path}")


def load_tensors(model: nn.Module, state: Mapping[str, Tensor], origin: str) -> None:
    """Load tensors into `model`, strictly. Raises UserError naming `origin` and the keys or shapes that don't fit."""
    wanted = model.state_dict()
    missing, surplus = sorted(wanted.keys() - state.keys()), sorted(state.keys() - wanted.keys())
    shapes = [
        f"{key} is {tuple(state[key].shape)}, expected {tuple(wanted[key].shape)}"
        for key in sorted(wanted.keys() & state.keys())
        if state[key].shape != wanted[key].shape
    ]
    problems = [f"missing {_some(missing)}"] * bool(missing) + [f"unknown {_some(surplus)}"] * bool(surplus)
    problems += [f"shape of {_some(shapes)}"] * bool(shapes)
    if problems:
        raise UserError(f"{origin} does not fit the model: " + "; ".join(problems))
    model.load_state_dict(dict(state), strict=True)


def read_tensors(
    path: Path, key: str = "backbone.weights", allowed: Sequence[Allowed] = TRAINING_CHECKPOINT
) -> Mapping[str, Any]:
    """The content of a .safetensors, .pt, .pth or .ckpt file, of which nothing is executed.

    key: what errors call the file's setting; allowed: what may be pickled in it beside tensors and plain containers.
    Raises UserError naming the first class that is not allowed.
    """
    if not path.is_file():
        raise UserError(f"{key}: {path} does not exist; expected a state dict (.pth, .pt, .safetensors)")
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        with torch.serialization.safe_globals(list(allowed)):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, LookupError, pickle.UnpicklingError, SafetensorError) as error:
        raise UserError(f"{key}: {path} can't be read as tensors: {_reason(error)}") from None
    if not isinstance(content, Mapping):
        raise UserError(f"{key}: {path} holds a {type(content).__name__}, expected a state dict")
    return content


def read_with_header(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and header of a safetensors file. Raises UserError."""
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
        return safetensors.torch.load_file(path), header
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} is damaged or no safetensors file: {error}") from None


def _reason(error: Exception) -> str:
    found = re.search(r"GLOBAL ([\w.]+)", str(error))
    if found:
        return (
            f"it holds a pickled {found[1]}, and loading anything but tensors and plain containers would run code "
            "from the file; save the state dict alone (torch.save(module.state_dict(), FILE))"
        )
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def unwrap_state(content: Mapping[str, Any], prefixes: Sequence[str] = PREFIXES) -> dict[str, Tensor]:
    """The state dict inside a checkpoint: the `teacher` of DINO, `encoder_q` of MoCo; prefixes removed.

    Where a prefix occurs, keys without it are dropped (DINO's head, MoCo's second encoder and queue).
    """
    for container in CONTAINERS:
        if isinstance(content.get(container), Mapping):
            content = content[container]
            break
    state = {str(k): v for k, v in content.items() if isinstance(v, Tensor)}
    for prefix in prefixes:
        if any(key.startswith(prefix) for key in state):
            state = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    return state


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
