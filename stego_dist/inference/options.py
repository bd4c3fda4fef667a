"""What prediction makes of every image, and what its results depend on."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from stego_dist.config import Config
from stego_dist.inference.model import Model, Readout, Scale

FORMAT = "stego_dist.predictions/1"
LOCAL_FILES = "/data/local-files/?d="
"""Where Label Studio serves files of the folder that it was given."""


@dataclass(frozen=True)
class Options:
    """How images are segmented, and what is written about each."""

    readout: Readout | None = None
    """None: the run's headline clusters."""
    scale: Scale | None = None
    """Pixels of the shorter side as the network sees it; None: as the run is evaluated."""
    window: int | None = None
    """Pixels of a side that go through the network in one piece; None: twice the resolution."""
    flip: bool | None = None
    """Average with the mirror image; None: as the run is evaluated."""
    crf: bool = False
    """Refine by the dense CRF."""
    overlay: Literal["jpg", "webp", "png", "none"] = "jpg"
    """Format of the overlays."""
    opacity: float = 0.55
    """Of the colours over the image."""
    probabilities: bool = False
    """Write probabilities of classes on the network's grid."""
    coco: bool = False
    """Write coco.json."""
    label_studio: str | None = None
    """Write label_studio.json; what stands before the images' paths there."""
    batch_size: int = 8
    """Windows of one forward; no effect on results beyond rounding."""


def settings_of(model: Model, config: Config, options: Options, model_sha256: str) -> dict[str, Any]:
    """What the labels of an image depend on beside the image, for files."""
    b = config.backbone
    return {
        "model": model_sha256,
        "backbone": b.name,
        "backbone_weights": model.scorer.backbone.weights_digest(),
        "backbone_settings": {"feature": b.feature, "pos_interp": b.pos_interp, "stride": b.stride, **b.options},
        "readout": model.scorer.readout,
        "scale": model.scale,
        "window": model.window,
        "flip": model.scorer.flip,
        "resize": model.resize,
        "precision": model.precision,
        "crf": options.crf,
    }


def made_from(settings: dict[str, Any], model: Model, options: Options) -> dict[str, Any]:
    """What all that is written about an image depends on beside the image."""
    written = {
        k: v for k, v in asdict(options).items() if k not in ("batch_size", "readout", "scale", "window", "flip")
    }
    return {"format": FORMAT, "settings": settings, "names": asdict(model.names), "written": written}
