"""The report's pictures: layers of every panel, examples of clusters, neighbours of training crops.

Written to RUN/panels/layers beside `pictures.json`, which says what each file shows; report/page.py embeds them. An
image is a WebP with loss, a map one without, transparent where the label is ignored, so that it can lie over its image.
All keep their aspect ratio; the bound is on the longer side.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stego_dist.config import Config
from stego_dist.data.manifest import ShardSet
from stego_dist.data.samples import ShardSamples
from stego_dist.engine.evaluate import Evaluation
from stego_dist.engine.panel import Panel
from stego_dist.engine.predict import CLUSTERS
from stego_dist.engine.scoring import CRF
from stego_dist.errors import UserError
from stego_dist.metrics.matching import Matching
from stego_dist.report.named import NONE, cluster_picture
from stego_dist.report.panels import (
    Colours,
    cluster_colours,
    colours,
    fitted,
    paint,
    prediction_colours,
    write_panels,
)
from stego_dist.report.tables import readable
from stego_dist.rundir import RunDir, atomic_path, write_json

SIDE, THUMBNAIL = 360, 112
"""Most pixels of the longer side of a panel's layers, and of small pictures."""
QUALITY = 80
FADED, PALE = 0.75, 200
"""How much of its grey level a pixel outside of the cluster that a picture is about gives up, and for which."""
Pixels = NDArray[np.uint8]


def write_pictures(evaluation: Evaluation, config: Config, run: RunDir) -> None:
    """Write the panels (one PNG an image, see report/panels.py) and the report's layers, replacing what was there."""
    results = evaluation.results
    shard_set = ShardSet.open(config.data.shards, config.data.storage)
    write_panels(evaluation.panels, evaluation.matchings, results, shard_set, run.panels)
    palette = shard_set.palette
    with atomic_path(layers_of(run)) as tmp:
        tmp.mkdir()
        write_json(
            tmp / "pictures.json",
            {
                "legend": _legend(evaluation, shard_set),
                "panels": [
                    _write_panel(tmp, n, panel, evaluation.matchings, palette, results["headline_clusters"])
                    for n, panel in enumerate(evaluation.panels)
                ],
                "clusters": _write_examples(tmp, evaluation),
                "neighbours": _write_neighbours(tmp, results.get("neighbours", []), shard_set, config),
            },
        )


def layers_of(run: RunDir) -> Path:
    """Where the layers lie."""
    return run.panels / "layers"


def _legend(evaluation: Evaluation, shard_set: ShardSet) -> list[dict[str, str]]:
    """Names and colours: of classes and unmatched clusters, or of clusters where there are no labels."""
    results, palette = evaluation.results, shard_set.palette
    headline = results["headline_clusters"]
    if not results["labelled"]:
        count = len(results["cluster_shares"][headline])
        return [_entry(f"cluster {i}", tint) for i, tint in enumerate(cluster_colours(count, None, palette))]
    mapping = evaluation.matchings[headline].cluster_to_class
    tints = cluster_colours(len(mapping), mapping, palette)
    classes = [_entry(name, tint) for name, tint in zip(shard_set.classes, colours(palette))]
    return classes + [_entry(f"cluster {i}, no class", tints[i]) for i, c in enumerate(mapping) if c < 0]


def _entry(name: str, tint: NDArray[np.uint8]) -> dict[str, str]:
    return {"name": name, "colour": "#" + bytes(tint.tolist()).hex()}


def _write_panel(
    folder: Path,
    number: int,
    panel: Panel,
    matchings: Mapping[str, Matching],
    palette: Sequence[tuple[int, int, int]],
    headline: str,
) -> dict[str, Any]:
    layers = []
    for layer in panel_layers(panel, matchings, palette):
        file, more = f"{number:03d}_{layer.key}", {}
        if layer.key == "image":
            save_photo(folder / f"{file}.webp", layer.pixels, SIDE)
        elif layer.key.removesuffix(CRF) in CLUSTERS and len(layer.tints) <= NONE:
            cluster_picture(layer.pixels, layer.tints, SIDE).save(folder / f"{file}.png", transparency=NONE)
            more = {"headline": layer.key.removesuffix(CRF) == headline}
        else:
            shown = fitted(layer.painted(), SIDE, smooth=False)
            shown.save(folder / f"{file}.webp", format="WEBP", lossless=True)
        suffix = "png" if more else "webp"
        layers.append({"key": layer.key, "title": layer.title, "file": f"{file}.{suffix}", **more})
    described = {"name": panel.name, "rank": panel.rank, "accuracy": panel.accuracy, "miou": panel.miou}
    return {**described, "layers": layers}


@dataclass(frozen=True)
class Layer:
    """A layer of a panel."""

    key: str
    title: str
    pixels: NDArray[Any]
    """The image, uint8 (H, W, 3), or ids, int16 (H, W), −1 where there is none."""
    tints: Colours
    """Colours of the ids; none of the image."""

    def painted(self) -> Pixels:
        """The image (H, W, 3), or the ids painted (H, W, 4), transparent where there is none."""
        if self.key == "image":
            return self.pixels
        opaque = np.where(self.pixels < 0, 0, 255).astype(np.uint8)
        return np.concatenate([paint(self.pixels, self.tints), opaque[..., None]], 2)


def panel_layers(
    panel: Panel, matchings: Mapping[str, Matching], palette: Sequence[tuple[int, int, int]]
) -> Iterator[Layer]:
    """The image, then maps."""
    yield Layer("image", "image", panel.image, colours([]))
    if panel.label is not None:
        yield Layer("label", "label", panel.label, colours(palette))
    for name, prediction in panel.predictions.items():
        yield Layer(name, readable(name), prediction, prediction_colours(name, prediction, matchings, palette))


def _write_examples(folder: Path, evaluation: Evaluation) -> list[dict[str, Any]]:
    """Images in which a cluster is largest, everything else faded."""
    found = evaluation.results.get("cluster_examples")
    if not found or not evaluation.examples:
        return []
    sheets = []
    for sheet in found["examples"]:
        files = []
        for image in sheet["images"]:
            panel = evaluation.examples[image["id"]]
            inside = panel.predictions[found["clusters"]] == sheet["cluster"]
            grey = (1 - FADED) * panel.image.mean(-1, keepdims=True) + FADED * PALE
            pixels = np.where(inside[..., None], panel.image, grey.astype(np.uint8))
            files.append(f"cluster{sheet['cluster']:03d}_{image['id']}.webp")
            save_photo(folder / files[-1], pixels, THUMBNAIL)
        sheets.append({"cluster": sheet["cluster"], "files": files})
    return sheets


def _write_neighbours(
    folder: Path, rows: Sequence[Mapping[str, Any]], shard_set: ShardSet, config: Config
) -> dict[str, str]:
    """Crops by their number; none where one of them can't be read."""
    wanted = sorted({i for row in rows for i in (row["id"], *(other["id"] for other in row["neighbours"]))})
    if not wanted or not config.eval.panels:
        return {}
    try:
        samples = ShardSamples(shard_set, config.data.train_split)
        views = samples.views(wanted, THUMBNAIL, config.data.image_resize)
    except UserError:
        return {}
    files = {str(i): f"crop_{i}.webp" for i in wanted}
    for i, (view, _) in zip(wanted, views):
        save_photo(folder / files[str(i)], view.permute(1, 2, 0).numpy(), THUMBNAIL)
    return files


def save_photo(path: Path, pixels: Pixels, side: int) -> None:
    """Write pixels (H, W, 3) as WebP, the longer side at most `side`."""
    fitted(pixels, side, smooth=True).save(path, format="WEBP", quality=QUALITY)
