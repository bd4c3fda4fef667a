"""A trained run in one file: backbone, head, probes and clusters as tensors, all else as JSON in the header.

It needs neither the run's folder nor its shards nor the backbone's weights, and nothing in it is executed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from stego_dist.config import Config
from stego_dist.config.load import config_of_tree
from stego_dist.engine.inputs import make_backbone
from stego_dist.errors import UserError
from stego_dist.inference.names import NamedClass, Names
from stego_dist.models.backbone import Backbone
from stego_dist.models.segmenter import Segmenter
from stego_dist.models.weights import load_tensors, read_with_header
from stego_dist.rundir import atomic_path

FORMAT = "stego_dist.model/1"
FILE = "model.safetensors"
BACKBONE, SEGMENTER = "backbone.", "segmenter."


@dataclass(frozen=True)
class ModelFile:
    """What such a file holds."""

    path: Path
    config: Config
    """The run's, without where things lay on the machine it was trained on."""
    segmenter: Segmenter
    meta: dict[str, Any]
    """The run's model meta, with the classes of its data set."""
    names: Mapping[str, Names]
    """By readout."""
    normalisation: tuple[Sequence[float], Sequence[float]]
    """Mean and standard deviation of each channel, for values in 0…255."""
    backbone_state: Mapping[str, Tensor]

    def backbone(self) -> Backbone:
        """The frozen network with the file's weights. Raises UserError when timm has no such network any more."""
        empty = self.config.backbone.model_copy(update={"weights": "random"})
        backbone = make_backbone(self.config.model_copy(update={"backbone": empty}))
        load_tensors(backbone.model, self.backbone_state, f"{self.path}: the backbone")
        for buffer, kept in zip((backbone.mean, backbone.std), self.normalisation):
            buffer.copy_(torch.tensor(kept).view(1, 3, 1, 1))
        return backbone


def find_model_file(place: Path) -> Path | None:
    """The model file that `place` is, or that lies in this folder, unless it is a run's; None where there is none."""
    if place.is_file():
        return place
    return place / FILE if (place / FILE).is_file() and not (place / "config.yaml").exists() else None


def write_model_file(
    path: Path,
    config: Config,
    backbone: Backbone,
    segmenter: Segmenter,
    meta: Mapping[str, Any],
    names: Mapping[Any, Names],
) -> None:
    """Write everything to `path`, atomically."""
    parts = {BACKBONE: backbone.model.state_dict(), SEGMENTER: segmenter.state_dict()}
    state = {f"{part}{key}": value for part, tensors in parts.items() for key, value in tensors.items()}
    header = {
        "config": without_places(config),
        "shape": segmenter.shape,
        "meta": dict(meta),
        "names": {readout: _plain(known) for readout, known in names.items()},
        "normalisation": [backbone.mean.flatten().tolist(), backbone.std.flatten().tolist()],
    }
    texts = {key: json.dumps(value, ensure_ascii=False) for key, value in header.items()}
    with atomic_path(path) as tmp:
        tensors = {key: value.detach().cpu().contiguous().clone() for key, value in state.items()}
        safetensors.torch.save_file(tensors, tmp, metadata={"format": FORMAT, **texts})


def read_model_file(path: Path, overrides: Sequence[str] = ()) -> ModelFile:
    """Read it. Raises UserError: missing, damaged, or another kind of file."""
    state, header = read_with_header(path)
    if header.get("format") != FORMAT:
        raise UserError(
            f"{path} is no exported model (expected format {FORMAT}, found {header.get('format', 'none')}); give the "
            "folder of a run, or what `stego-dist export RUN --format safetensors` wrote"
        )
    found = {key: json.loads(header[key]) for key in ("config", "shape", "meta", "names", "normalisation")}
    segmenter = Segmenter(**found["shape"])
    load_tensors(segmenter, _part(state, SEGMENTER), f"{path}: the segmenter")
    return ModelFile(
        path, config_of_tree(found["config"], overrides, str(path)), segmenter.eval(), found["meta"],
        {readout: _names(known) for readout, known in found["names"].items()},
        (found["normalisation"][0], found["normalisation"][1]), _part(state, BACKBONE),
    )  # fmt: skip


def without_places(config: Config) -> dict[str, Any]:
    """The configuration as a plain tree whose paths have their last part alone: the rest is of one machine."""
    values = config.model_dump(mode="json")
    for section, key in (("data", "shards"), ("backbone", "weights"), ("features", "dir"), (None, "run_dir")):
        node = values if section is None else values[section]
        node[key] = Path(node[key]).name
    values["data"]["storage"]["cache_dir"] = None
    return values


def _part(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


def _plain(names: Names) -> dict[str, Any]:
    classes = [{"name": c.name, "colour": list(c.colour)} for c in names.classes]
    return {"classes": classes, "of_cluster": list(names.of_cluster)}


def _names(plain: dict[str, Any]) -> Names:
    classes = (NamedClass(c["name"], (c["colour"][0], c["colour"][1], c["colour"][2])) for c in plain["classes"])
    return Names(tuple(classes), tuple(plain["of_cluster"]))
