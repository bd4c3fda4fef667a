"""Segmentations for other tools: COCO's JSON with run-length encoded masks, and pre-annotations for Label Studio.

Each image's part is made when it is segmented and kept in its record; the files are put together from those, one image
at a time.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TextIO
from xml.sax.saxutils import quoteattr

import numpy as np
from numpy.typing import NDArray

from stego_dist.inference.names import Names, hex_colour
from stego_dist.inference.rle import Runs, box, brush_rle, coco_counts
from stego_dist.rundir import atomic_path

Record = dict[str, Any]


def coco_annotations(labels: NDArray[np.integer]) -> list[dict[str, Any]]:
    """An annotation for each class of an image's ids (H, W), without ids of image and annotation."""
    height, width = labels.shape
    return [
        {
            "category_id": value,
            "segmentation": {"size": [height, width], "counts": coco_counts(lengths)},
            "area": int(lengths[1::2].sum()),
            "bbox": box(lengths, height),
            "iscrowd": 0,
        }
        for value, lengths in Runs.of(labels, columns=True).masks()
    ]


def brush_results(labels: NDArray[np.integer], names: Names) -> list[dict[str, Any]]:
    """A brush region for each class of an image's ids (H, W)."""
    height, width = labels.shape
    return [
        {
            "id": f"class{value}",
            "type": "brushlabels",
            "from_name": "class",
            "to_name": "image",
            "original_width": width,
            "original_height": height,
            "image_rotation": 0,
            "value": {"format": "rle", "rle": brush_rle(lengths), "brushlabels": [names.classes[value].name]},
        }
        for value, lengths in Runs.of(labels).masks()
    ]


def write_coco(path: Path, records: Callable[[], Iterable[Record]], names: Names, description: str) -> None:
    """A COCO file of all images. Ids of categories are class ids; images and annotations count from 1."""

    def images() -> Iterator[Record]:
        for number, record in enumerate(records(), 1):
            image = record["image"]
            yield {"id": number, "file_name": image["file"], "width": image["width"], "height": image["height"]}

    def annotations() -> Iterator[Record]:
        count = 0
        for number, record in enumerate(records(), 1):
            for annotation in record["coco"]:
                count += 1
                yield {"id": count, "image_id": number, **annotation}

    categories = [{"id": i, "name": c.name, "color": list(c.colour)} for i, c in enumerate(names.classes)]
    head = {"info": {"description": description}, "categories": categories}
    write_lists(path, head, {"images": images(), "annotations": annotations()})


def write_label_studio(path: Path, records: Iterable[Record], names: Names, model: str, prefix: str) -> None:
    """Tasks with predictions, and beside them the labelling configuration (label_studio.xml) that they belong to."""

    def tasks() -> Iterator[Record]:
        for record in records:
            file = record["image"]["file"]
            where = file if "://" in file else prefix + file
            score = sum(c["share"] * c["confidence"] for c in record["image"]["classes"].values())
            predictions = [{"model_version": model, "score": score, "result": record["label_studio"]}]
            yield {"data": {"image": where}, "predictions": predictions}

    with atomic_path(path) as tmp, tmp.open("w", encoding="utf-8") as file:
        _write_list(file, tasks())
        file.write("\n")
    labels = "".join(
        f"    <Label value={quoteattr(c.name)} background={quoteattr(hex_colour(c.colour))}/>\n" for c in names.classes
    )
    with atomic_path(path.with_suffix(".xml")) as tmp:
        tmp.write_text(
            '<View>\n  <Image name="image" value="$image" zoom="true"/>\n  <BrushLabels name="class" toName="image">\n'
            f"{labels}  </BrushLabels>\n</View>\n",
            "utf-8",
        )


def write_lists(path: Path, head: dict[str, Any], lists: dict[str, Iterable[Record]]) -> None:
    """A JSON object, atomically: the fields of `head`, then lists whose entries are never all in memory."""
    with atomic_path(path) as tmp, tmp.open("w", encoding="utf-8") as file:
        file.write(json.dumps(head, indent=2, ensure_ascii=False, allow_nan=False).removesuffix("\n}"))
        for name, entries in lists.items():
            file.write(f",\n  {json.dumps(name)}: ")
            _write_list(file, entries)
        file.write("\n}\n")


def _write_list(file: TextIO, entries: Iterable[Record]) -> None:
    file.write("[")
    first = True
    for entry in entries:
        file.write("\n    " if first else ",\n    ")
        file.write(json.dumps(entry, ensure_ascii=False, allow_nan=False))
        first = False
    file.write("]" if first else "\n  ]")
