"""A trained run as a function of images.

1. an image is brought to the scale the run was trained at (its shorter side has eval.resolution pixels), or kept;
2. windows cover it: one for most images, several for long or large ones;
3. windows of one size, of whichever images, go through backbone and head together;
4. their scores are blended on the network's grid: a `Segmentation` (see segmentation.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from stego_dist.config import Config, load_config
from stego_dist.data.manifest import ShardSet
from stego_dist.data.sources import MAX_PIXELS, open_image
from stego_dist.data.transforms import Resize
from stego_dist.engine.inputs import make_backbone
from stego_dist.engine.predict import LINEAR
from stego_dist.errors import UserError
from stego_dist.inference.batches import Failed, Finished, WindowQueue
from stego_dist.inference.modelfile import ModelFile, find_model_file, read_model_file
from stego_dist.inference.names import NamedClass, Names, clusters_digest, default_names, read_names
from stego_dist.inference.rasters import Pixels, Raster
from stego_dist.inference.segmentation import Segmentation
from stego_dist.models.backbone import Backbone
from stego_dist.models.segmenter import Segmenter, averaged_code
from stego_dist.rundir import RunDir, read_json

Readout = Literal["kmeans", "learned", "linear"]
Scale = int | Literal["native"]
ImageLike = str | Path | bytes | Image.Image | NDArray[np.uint8]
"""A file, its bytes, a PIL image, or an RGB array uint8 (H, W, 3)."""
LARGE = 2
"""Sides of a window, in resolutions: what is shorter on both sides is looked at in one piece."""
OVERLAP = 4
"""The part of a window's side that it shares with the next: one over this."""


class Scorer(nn.Module):
    """Backbone, head and one readout in one module: uint8 images (B, 3, H, W) → scores (B, K, h, w), lengths (B, h, w).

    Scores are products of codes with unit centres, or logits of the linear probe, whose lengths are 1.
    """

    def __init__(self, backbone: Backbone, segmenter: Segmenter, readout: Readout, *, flip: bool) -> None:
        super().__init__()
        self.backbone, self.segmenter, self.readout, self.flip = backbone, segmenter, readout, flip
        self.eval()

    @torch.no_grad()
    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """See the class."""
        feats = self.backbone(torch.cat([images, images.flip(-1)]) if self.flip else images)
        return self.read(averaged_code(self.segmenter.encode, feats, self.flip))

    def read(self, code: Tensor) -> tuple[Tensor, Tensor]:
        """Scores and lengths of what `Segmenter.encode` gives (B, D, h, w)."""
        if self.readout == LINEAR:
            assert self.segmenter.linear is not None
            scores = self.segmenter.linear(code[:, : self.segmenter.head.code_dim])
            return scores, torch.ones_like(scores[:, 0])
        centres = self.segmenter.centres(self.readout)
        code = code[:, : centres.shape[1]]
        return torch.einsum("bchw,kc->bkhw", code, F.normalize(centres, dim=1)), code.norm(dim=1)


class Model:
    """A trained run, ready for images. Made by `Model.load`.

    Calls are safe from one thread at a time.
    """

    def __init__(
        self,
        scorer: Scorer,
        names: Names,
        *,
        scale: Scale,
        resize: Resize = "bilinear",
        window: int,
        precision: str = "fp32",
        device: torch.device | str = "cpu",
    ) -> None:
        """scale: pixels of the shorter side as the network sees it, or "native"; window: most pixels of a side that go
        through the network in one piece; precision: fp32, bf16 or fp16."""
        self.device, self.precision = torch.device(device), precision
        self.scorer, self.names, self.scale, self.resize = scorer.to(self.device), names, scale, resize
        self.window, self.stride = window, scorer.backbone.stride
        self.side = max(1, window // self.stride)
        self.overlap = max(1, self.side // OVERLAP) if self.side > 1 else 0

    @classmethod
    def load(
        cls,
        run: str | Path,
        *,
        device: str = "auto",
        readout: Readout | None = None,
        scale: Scale | None = None,
        window: int | None = None,
        flip: bool | None = None,
        overrides: Sequence[str] = (),
    ) -> Model:
        """The model of a run (a folder that `train`, `fit` or `import` wrote), under the names in its names.yaml, or of
        what an export to safetensors wrote.

        device: "auto" takes a GPU where there is one. readout: "kmeans", "learned" or "linear" (a run with labels);
        None: the run's headline clusters (eval.clusters). scale: pixels of the shorter side as the network sees an
        image, or "native"; None: as the run is evaluated. window: most pixels of a side in one piece, larger images are
        seen in windows that overlap; None: twice the resolution. flip: average with the mirror image; None: as the run
        is evaluated. overrides: of the run's configuration, for instance ["backbone.weights=FILE"] where they lie
        elsewhere now. Nothing is unpickled but a backbone's own file, as tensors.

        Raises UserError: no run, a damaged one, a readout that it has not, a backbone that can't be had.
        """
        opened = OpenedRun.open(Path(run), overrides)
        chosen = opened.readout(readout)
        e = opened.config.eval
        place = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
        scorer = Scorer(opened.backbone(), opened.segmenter, chosen, flip=e.flip if flip is None else flip)
        return cls(
            scorer, opened.names(chosen), scale=scale or e.resolution, resize=opened.config.data.image_resize,
            window=window or LARGE * e.resolution, precision=opened.config.train.precision, device=place,
        )  # fmt: skip

    def __call__(self, image: ImageLike) -> Segmentation:
        """Segment one image. Raises UserError when it can't be read."""
        return next(self.segment([image]))

    def segment(self, images: Iterable[ImageLike], batch_size: int = 8) -> Iterator[Segmentation]:
        """Segment images, in their order; windows of one size go through the network together."""
        rasters = ((number, self.raster(image)) for number, image in enumerate(images))
        waiting: dict[int, Segmentation] = {}
        due = 0
        for number, raster, found in self.segment_rasters(rasters, batch_size):
            assert isinstance(raster, Pixels)
            waiting[number] = replace(found, image=raster.pixels.permute(1, 2, 0).numpy())
            while due in waiting:
                yield waiting.pop(due)
                due += 1

    def raster(self, image: ImageLike) -> Pixels:
        """An image in memory. Raises UserError when it can't be read."""
        if isinstance(image, np.ndarray):
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
                raise UserError(f"an image as an array is uint8 (H, W, 3), not {image.dtype} {image.shape}")
            found = Pixels(torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1))
        elif isinstance(image, Image.Image):
            found = Pixels.of(image.convert("RGB"))
        else:
            found = Pixels.of(open_image(Path(image) if isinstance(image, str) else image))
        if not found.held:
            raise UserError("an image without pixels")
        return found

    def segment_rasters(
        self, rasters: Iterable[tuple[int, Raster]], batch_size: int = 8, failed: Failed | None = None
    ) -> Iterator[Finished]:
        """Segmentations of numbered rasters, without their images, in the order in which they are finished.

        What waits is bounded (see WindowQueue). `failed` is told the number of a raster that can't be read or seen, and
        why; without it UserError is raised.
        """
        queue = WindowQueue(self, batch_size, failed)
        for number, raster in rasters:
            yield from queue.add(number, raster)
        yield from queue.flush()

    def seen_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Size (H, W) at which the network sees an image. Raises UserError for one that is too long for its width."""
        height, width = size
        if self.scale == "native":
            return size
        longer = int(self.scale * max(size) / min(size))
        if longer * self.scale > MAX_PIXELS:
            raise UserError(
                f"an image of {width}×{height} pixels would be seen at {longer}×{self.scale}; cut it into pieces"
            )
        return (self.scale, longer) if height <= width else (longer, self.scale)


@dataclass(frozen=True)
class OpenedRun:
    """What a run directory holds for inference, or a file that was exported from one."""

    run: RunDir
    config: Config
    segmenter: Segmenter
    meta: dict[str, Any]
    file: ModelFile | None = None
    """The file; None: it is a run directory."""

    @classmethod
    def open(cls, root: Path, overrides: Sequence[str] = ()) -> OpenedRun:
        """Read configuration and trained part. Raises UserError."""
        if path := find_model_file(root):
            file = read_model_file(path, overrides)
            return cls(RunDir(path.parent), file.config, file.segmenter, file.meta, file)
        run = RunDir.existing(root)
        segmenter, meta = Segmenter.load(run.model)
        return cls(run, load_config(run.config, overrides), segmenter, meta)

    def backbone(self) -> Backbone:
        """The frozen network. Raises UserError when its weights can't be had."""
        return make_backbone(self.config) if self.file is None else self.file.backbone()

    def readouts(self) -> tuple[Readout, ...]:
        """What images can be segmented by: a run may lack k-means (imported) or a linear probe (no labels)."""
        known: Sequence[Readout] = self.meta.get("clusters", ("kmeans", "learned"))
        return (*known,) if self.segmenter.linear is None else (*known, "linear")

    def readout(self, wanted: Readout | None) -> Readout:
        """The wanted readout, the headline clusters where it is None. Raises UserError when there is no such one."""
        chosen = wanted or self.config.eval.clusters
        if chosen not in self.readouts():
            why = "it was trained without labels" if chosen == LINEAR else "it was imported without them"
            raise UserError(f"{self.run.root} has no {chosen} readout: {why}; take {' or '.join(self.readouts())}")
        return chosen

    def classes(self) -> list[NamedClass]:
        """Classes of the data set the run was trained on; none where none are known."""
        known = self.meta.get("classes")
        if known is None:  # the run is older than that
            try:
                known = ShardSet.open(self.config.data.shards, self.config.data.storage).described_classes
            except UserError:
                return []
        return [NamedClass(c["name"], tuple(c["colour"])) for c in known]

    def digest(self, readout: Readout) -> str:
        """What names.yaml is `of`."""
        return clusters_digest(readout, self.segmenter.centres(readout).detach().numpy().tobytes())

    def defaults(self, readout: Readout) -> Names:
        """Names before anybody gave any; of a file, those that it was exported with."""
        if self.file is not None:
            return self.file.names[readout]
        classes = self.classes()
        if readout == LINEAR:
            assert self.segmenter.linear is not None
            count = self.segmenter.linear.conv.out_channels
            named = classes or [NamedClass(f"class {i}", c.colour) for i, c in enumerate(default_names(count).classes)]
            return Names(tuple(named), tuple(range(count)))
        return default_names(self.segmenter.num_clusters, classes, self._matching(readout) if classes else None)

    def names(self, readout: Readout) -> Names:
        """The names of RUN/names.yaml for the headline clusters, of the defaults for others."""
        defaults = self.defaults(readout)
        if readout != self.config.eval.clusters:
            return defaults
        return read_names(self.run.names, defaults, self.digest(readout))

    def shares(self, readout: Readout) -> list[float | None] | None:
        """Share of the evaluated pixels by cluster, as the run's results have it; None for those that they don't tell
        apart, or where there are no results."""
        if not self.run.results.exists():
            return None
        results = self._results()
        if (unlabelled := results.get("cluster_shares", {}).get(readout)) is not None:
            return list(unlabelled)
        entry = results.get("measures", {}).get(readout, {})
        matched, rows = entry.get("cluster_to_class"), [sum(row) for row in entry.get("confusion", [])]
        if matched is None or len(matched) != self.segmenter.num_clusters or not sum(rows):
            return None
        return [rows[c] / sum(rows) if c >= 0 else None for c in matched]

    def _results(self) -> dict[str, Any]:
        found: dict[str, Any] = read_json(self.run.results, "the run's results", "Run `stego-dist eval` again.")
        return found

    def _matching(self, readout: Readout) -> list[int] | None:
        """Class by cluster as an evaluation found it, by majority where there are more clusters than classes."""
        if not self.run.results.exists():
            return None
        entry = self._results().get("measures", {}).get(readout, {})
        found = entry.get("majority_matching", entry).get("cluster_to_class")
        return found if found is not None and len(found) == self.segmenter.num_clusters else None
