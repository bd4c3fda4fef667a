"""Backbone weights from a file: official DINO, MoCo v2, timm, or any plain state dict.

Files are read without executing anything in them (safetensors, or torch.load with weights_only).
"""

from __future__ import annotations

import argparse
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from stego_dist.errors import UserError

CONTAINERS = ("teacher", "state_dict", "model")
PREFIXES = ("module.", "encoder_q.", "backbone.")
CLASSIFIERS = ("head.", "fc.", "classifier.")


def load_state(model: nn.Module, path: Path) -> None:
    """Load a file into `model`, strictly, after unwrapping it and dropping classifier heads.

    Raises UserError when the file is missing, damaged, or its keys or shapes are not the model's.
    """
    state = unwrap_state(read_tensors(path))
    wanted = model.state_dict()
    state = {k: v for k, v in state.items() if k in wanted or not k.startswith(CLASSIFIERS)}
    missing, surplus = sorted(wanted.keys() - state.keys()), sorted(state.keys() - wanted.keys())
    shapes = [
        f"{key} is {tuple(state[key].shape)}, expected {tuple(wanted[key].shape)}"
        for key in sorted(wanted.keys() & state.keys())
        if state[key].shape != wanted[key].shape
    ]
    problems = [f"missing {_some(missing)}"] * bool(missing) + [f"unknown {_some(surplus)}"] * bool(surplus)
    problems += [f"shape of {_some(shapes)}"] * bool(shapes)
    if problems:
        raise UserError(f"backbone.weights: {path} does not fit the backbone: " + "; ".join(problems))
    model.load_state_dict(state, strict=True)


def read_tensors(path: Path) -> Mapping[str, Any]:
    """The content of a .safetensors, .pt or .pth file; nothing pickled beyond tensors is allowed in it."""
    if not path.is_file():
        raise UserError(f"backbone.weights: {path} does not exist; expected a state dict (.pth, .pt, .safetensors)")
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        with torch.serialization.safe_globals([argparse.Namespace]):  # DINO's own training checkpoints hold one
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError, SafetensorError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"backbone.weights: {path} can't be read as tensors: {reason}") from None
    if not isinstance(content, Mapping):
        raise UserError(f"backbone.weights: {path} holds a {type(content).__name__}, expected a state dict")
    return content


def unwrap_state(content: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state dict inside a checkpoint: the `teacher` of DINO, `encoder_q` of MoCo; prefixes removed."""
    for container in CONTAINERS:
        if isinstance(content.get(container), Mapping):
            content = content[container]
            break
    state = {str(k): v for k, v in content.items() if isinstance(v, Tensor)}
    for prefix in PREFIXES:
        if any(key.startswith(prefix) for key in state):
            state = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    return state


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
