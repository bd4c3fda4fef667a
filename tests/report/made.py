"""Results as an evaluation writes them, made by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stego_dist.rundir import RunDir, write_json

CLASSES = ["sky", '<b>road</b> & "kerb"', "pole'"]
PALETTE = [(10, 20, 30), (200, 100, 0), (0, 255, 7)]


def entry(accuracy: float, miou: float, ious: list[float | None]) -> dict[str, Any]:
    return {
        "accuracy": accuracy,
        "miou": miou,
        "iou": dict(zip(CLASSES, ious)),
        "confusion": [[3, 0, 1], [0, 2, 0], [0, 0, 0]],
    }


def labelled_results(dataset: str = "mine", run: str = "night") -> dict[str, Any]:
    return {
        "format": "stego_dist.results/1",
        "run": run,
        "step": 50,
        "seed": 3,
        "backbone": "vit_x",
        "weights": "random",
        "dataset": dataset,
        "split": "val",
        "images": 4,
        "resolution": 32,
        "flip": True,
        "crf": "cluster",
        "headline_clusters": "learned",
        "seconds": 1.5,
        "warnings": [],
        "labelled": True,
        "classes": CLASSES,
        "measures": {
            "kmeans": {
                **entry(0.5, 0.25, [0.5, 0.0, None]),
                "cluster_to_class": [1, 0, 2, -1],
                "published_counting": {"accuracy": 0.75, "miou": 0.375},
            },
            "learned": {**entry(0.625, 0.3125, [0.125, 0.5, None]), "cluster_to_class": [0, 1, 2]},
            "learned+crf": {**entry(0.6875, 0.34, [0.2, 0.5, None]), "cluster_to_class": [0, 1, 2]},
            "linear": entry(0.875, 0.7, [0.7, 0.7, None]),
        },
        "classes_without_pixels": ["pole'"],
    }


def unlabelled_results() -> dict[str, Any]:
    results = labelled_results()
    for key in ("classes", "measures", "classes_without_pixels"):
        del results[key]
    shares = {"kmeans": [0.25, 0.75, 0.0], "learned": [0.5, 0.125, 0.375]}
    return {**results, "labelled": False, "cluster_shares": shares}


def run_at(tmp_path: Path) -> RunDir:
    run = RunDir(tmp_path / "run")
    run.panels.mkdir(parents=True)
    run.config.write_text("name: night  # <i>&\n", "utf-8")
    write_json(run.provenance, {"torch": "2", "inputs": {"shards": "</pre><script>"}})
    write_json(run.results, labelled_results())
    return run
