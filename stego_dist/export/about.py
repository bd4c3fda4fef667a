"""classes.json: what whoever runs an exported file has to know."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from stego_dist import __version__
from stego_dist.export.formats import Format, Size
from stego_dist.export.module import INPUT, OUTPUTS
from stego_dist.inference.model import OpenedRun, Readout, Scale, Scorer
from stego_dist.inference.names import Names, hex_colour

FORMAT = "stego_dist.export/1"


@dataclass(frozen=True)
class Exported:
    """What is exported, and how."""

    opened: OpenedRun
    scorer: Scorer
    names: Names
    format: Format
    readout: Readout
    scale: Scale
    files: tuple[tuple[str, Size | None], ...]
    """File names and the size of images that each takes; None: any."""

    @property
    def stride(self) -> int:
        """Pixels a position of the scores."""
        return self.scorer.backbone.stride

    @property
    def sizes(self) -> list[Size]:
        """The sizes that images must have; none: any."""
        return [size for _, size in self.files if size]


def describe(what: Exported) -> dict[str, Any]:
    """The content of classes.json."""
    backbone, config = what.scorer.backbone, what.opened.config
    classes = [
        {"id": i, "name": c.name, "colour": list(c.colour), "hex": hex_colour(c.colour), "clusters": _clusters(what, i)}
        for i, c in enumerate(what.names.classes)
    ]
    return {
        "format": FORMAT,
        "stego_dist": __version__,
        "run": config.name,
        "kind": what.format,
        "files": [{"file": file, "size": list(size) if size else None} for file, size in what.files],
        "input": {INPUT: "uint8 (batch, 3, height, width): RGB, 0 to 255"},
        "outputs": dict(zip(OUTPUTS, (
            "int32 (batch, height, width): ids of classes",
            f"float32 (batch, {len(what.names.of_cluster)}, ⌈height/{what.stride}⌉, ⌈width/{what.stride}⌉): "
            + ("probabilities of the linear probe" if what.readout == "linear" else "cosines with the clusters"),
        ))),
        "smallest_side": what.stride + 1,
        "stride": what.stride,
        "scale": what.scale,
        "resize": config.data.image_resize,
        "readout": what.readout,
        "flip": what.scorer.flip,
        "normalisation": {"inside": True, "mean": _plain(backbone.mean), "std": _plain(backbone.std)},
        "classes": classes,
    }  # fmt: skip


def properties(about: dict[str, Any]) -> dict[str, Any]:
    """What of it travels inside an ONNX file."""
    kept: Sequence[str] = ("format", "run", "classes", "normalisation", "scale", "resize", "stride", "readout", "flip")
    return {key: about[key] for key in kept}


def _clusters(what: Exported, place: int) -> list[int]:
    return [cluster for cluster, its in enumerate(what.names.of_cluster) if its == place]


def _plain(values: Any) -> list[float]:
    """Values for pixels in 0…255."""
    return [round(float(value), 4) for value in values.flatten()]
