"""What a program calls: `load` a trained run, or `fit` a folder of images.

from stego_dist import fit, load

model = fit("my_photos", classes=12)            # or load("my_photos-stego")
seg = model("photo.jpg")
seg.labels                                      # int16 (H, W), an index into seg.names.classes
seg.shares()                                    # {"cluster 3": 0.41, …}
seg.overlay().save("overlay.png")
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from stego_dist.fitting.folder import Folder
from stego_dist.fitting.plan import Choice, Request
from stego_dist.fitting.run import fit as fit_folder
from stego_dist.inference.model import ImageLike, Model
from stego_dist.inference.names import NamedClass, Names
from stego_dist.inference.segmentation import Segmentation

__all__ = ["Choice", "ImageLike", "Model", "NamedClass", "Names", "Segmentation", "fit", "load"]


load = Model.load


def fit(
    folder: str | Path,
    out: str | Path | None = None,
    *,
    classes: int | None = None,
    backbone: str | None = None,
    weights: str | Path = "timm",
    stride: int | None = None,
    resolution: int | None = None,
    seconds: float | None = None,
    images: int | None = None,
    steps: int | None = None,
    seed: int = 0,
    on_error: str = "skip",
    overwrite: bool = False,
    tell: Callable[[Choice, Folder], None] | None = None,
    overrides: Sequence[str] = (),
) -> Model:
    """Segment a folder of images without labels; everything lies in `out` (default: FOLDER-stego, here) afterwards.

    classes: number of clusters, None: as many as the codes have modes. backbone, weights: a timm model and its file
    (None, "timm": DINO from timm's hub). stride: of a CNN's feature map. seconds: that it may take about. images: that
    are trained on, evenly spread. `tell` is shown what was chosen before anything is done, and may raise to give up.
    The rest as `stego-dist fit --help` says. Called again it goes on where it stopped, or returns what is finished.

    Raises UserError: no images, options other than those it was begun with, a full disk, a station that failed.
    """
    from stego_dist.cli import main

    folder = Path(folder)
    where = Path(out) if out is not None else Path(f"{folder.resolve().name or 'images'}-stego")
    request = Request(
        classes=classes, backbone=backbone, weights=str(weights), stride=stride, resolution=resolution, seconds=seconds,
        images=images, steps=steps, seed=seed, overrides=tuple(overrides),
    )  # fmt: skip
    options = {} if tell is None else {"tell": tell}
    fit_folder(folder, where, request, main, on_error=on_error, overwrite=overwrite, **options)
    return Model.load(where)
