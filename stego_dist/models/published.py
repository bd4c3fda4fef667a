"""A published STEGO checkpoint as tensors and plain settings.

In: the Lightning file of the published code, with `state_dict` (`net.model.*` the DINO backbone, `net.cluster1.0`,
`net.cluster2.0` and `net.cluster2.2` the head, `linear_probe`, `cluster_probe.clusters`), `hyper_parameters` and the
trainer's own state. Out: the backbone's tensors, a segmenter, and the settings as plain values.

Nothing in the file is executed: its configuration objects are read into inert stand-ins, and a file that holds other
pickled objects is refused.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stego_dist.errors import UserError
from stego_dist.models.segmenter import Segmenter
from stego_dist.models.weights import Allowed, load_tensors, read_tensors

HEAD = {"net.cluster1.0": "head.linear"}
SECOND_BRANCH = {"net.cluster2.0": "head.hidden", "net.cluster2.2": "head.out"}
PROBES = {"linear_probe": "linear.conv"}
CENTRES = "cluster_probe.clusters"
BACKBONE = "net.model."
PATCHES = f"{BACKBONE}patch_embed.proj.weight"
UNUSED = ("train_cluster_probe.", "decoder.")
"""Parts of the published module that segment nothing."""
VITS = {
    (384, 8): "vit_small_patch8_224.dino",
    (384, 16): "vit_small_patch16_224.dino",
    (768, 8): "vit_base_patch8_224.dino",
    (768, 16): "vit_base_patch16_224.dino",
}
"""timm's ids of the backbones that were published with, by width and patch size; all have twelve blocks."""


class Inert:
    """Stands in for a class that a checkpoint names: keeps what was pickled, and does nothing."""

    def __init__(self, *arguments: Any) -> None:
        self.state: Any = arguments

    def __setstate__(self, state: Any) -> None:
        self.state = state


STANDS_IN_FOR = (
    "omegaconf.base.ContainerMetadata", "omegaconf.base.Metadata", "omegaconf.dictconfig.DictConfig",
    "omegaconf.listconfig.ListConfig", "omegaconf.nodes.AnyNode", "typing.Any",
    "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint",
)  # fmt: skip
ALLOWED: tuple[Allowed, ...] = (dict, list, int, defaultdict, *((Inert, name) for name in STANDS_IN_FOR))


@dataclass(frozen=True)
class PublishedStego:
    """What a checkpoint holds."""

    backbone: dict[str, Tensor]
    """Official DINO's state dict."""
    segmenter: Segmenter
    """In eval mode; its k-means centres are copies of the learned ones, for the published method has none."""
    settings: dict[str, Any]
    """The published configuration as plain values; empty when the file has none."""
    step: int
    unused: list[str]
    """Keys that have no place here."""

    @property
    def backbone_id(self) -> str | None:
        """timm's id of the backbone, by its shapes; None when it is none of the four published ones."""
        width, _, patch, _ = self.backbone[PATCHES.removeprefix(BACKBONE)].shape
        blocks = {key.split(".")[1] for key in self.backbone if key.startswith("blocks.")}
        return VITS.get((width, patch)) if len(blocks) == 12 else None


def read_published(path: Path) -> PublishedStego:
    """Read a checkpoint. Raises UserError: not readable, other pickled objects, missing keys, shapes that disagree."""
    content = read_tensors(path, "import", ALLOWED)
    stored = content.get("state_dict")
    if not isinstance(stored, Mapping):
        raise UserError(f"import: {path} has no state_dict; expected the Lightning checkpoint of a published STEGO")
    state = {str(key): value for key, value in stored.items() if isinstance(value, Tensor)}
    second = SECOND_BRANCH if any(key.startswith("net.cluster2.") for key in state) else {}
    places = {
        f"{theirs}.{kind}": f"{ours}.{kind}"
        for theirs, ours in {**HEAD, **second, **PROBES}.items()
        for kind in ("weight", "bias")
    }
    places[CENTRES] = "cluster.centres"
    missing = [key for key in (*places, PATCHES) if key not in state]
    if missing:
        raise UserError(
            f"import: {path} is no STEGO checkpoint on a DINO ViT: its state_dict has no {', '.join(missing)}; found "
            + (", ".join(sorted({key.split(".")[0] for key in state})) or "nothing")
        )
    axes = {key: 2 if key == CENTRES else 1 if key.endswith("bias") else 4 for key in (*places, PATCHES)}
    odd = [f"{key} is {tuple(state[key].shape)}" for key, count in axes.items() if state[key].ndim != count]
    if odd:
        raise UserError(f"import: {path}: {', '.join(odd)}; expected 1×1 convolutions and a matrix of centres")
    tensors = {ours: state[theirs].float() for theirs, ours in places.items()}
    tensors["kmeans"] = tensors["cluster.centres"].clone()
    code_dim, dim = tensors["head.linear.weight"].shape[:2]
    segmenter = Segmenter(
        dim=dim,
        code_dim=code_dim,
        projection="nonlinear" if second else "linear",
        num_clusters=len(tensors["cluster.centres"]),
        num_classes=len(tensors["linear.conv.weight"]),
    )
    load_tensors(segmenter, tensors, f"import: {path} (by this project's names)")
    unused = [key for key in state if key not in places and not key.startswith((BACKBONE, *UNUSED))]
    step = content.get("global_step")
    return PublishedStego(
        backbone={k.removeprefix(BACKBONE): v for k, v in state.items() if k.startswith(BACKBONE)},
        segmenter=segmenter.eval(),
        settings=_settings(plain(content.get("hyper_parameters"))),
        step=step if isinstance(step, int) else 0,
        unused=unused,
    )


def _settings(found: Any) -> dict[str, Any]:
    """The published arguments (`n_classes`, `cfg`) as one dictionary."""
    if not isinstance(found, dict):
        return {}
    inner = found.pop("cfg", None)
    return {**found, **(inner if isinstance(inner, dict) else {})}


def plain(value: Any) -> Any:
    """What was pickled as plain values: dictionaries, lists, numbers, strings; anything else as None."""
    if isinstance(value, Inert):
        state = value.state if isinstance(value.state, Mapping) else {}
        return plain(state.get("_val", state.get("_content")))
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    if isinstance(value, torch.Tensor) or (isinstance(value, float) and not isfinite(value)):
        return None
    return value if isinstance(value, str | int | float | bool) else None
