"""`stego-dist fit FOLDER`: from images to clusters, by the commands that a user would type.

1. look at the folder, measure the machine, choose settings, say what will be done, how long it takes, what it
   writes;
2. shards → neighbour table → training → clusters → report, and a file of names to fill in.

OUT is a run directory, which every command takes. What is finished is skipped: a second call goes on, with the settings
that the first one chose (OUT/fit.json).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from stego_dist import console
from stego_dist.config import Config, dump_config
from stego_dist.data.crops import Crops
from stego_dist.engine.per_image import evenly
from stego_dist.engine.trial import is_trained
from stego_dist.errors import UserError
from stego_dist.fitting.folder import Folder, folder_card
from stego_dist.fitting.plan import CLUSTERS, MAX_SIDE, Choice, Request, fit_config, plan_fit
from stego_dist.fitting.stations import Command, Stations
from stego_dist.inference.model import OpenedRun
from stego_dist.inference.names import write_names
from stego_dist.jobs.plan import Facts, Figures
from stego_dist.jobs.probes import measure_config
from stego_dist.rundir import RunDir, atomic_path, check_fingerprint, read_json, write_json

FORMAT = "stego_dist.fit/1"
REMEDY = "Give the same options to go on, or --overwrite to begin anew."
SEARCH = {"knn_flops": 2e9, "knn_matmul_flops": 2e9, "knn_scan_flops": 1e9, "knn_query_seconds": 1e-3}
"""What the search is taken to do, for the estimate: little beside the rest at the sizes where minutes count."""
Confirm = Callable[[Choice, Folder], None]
"""Is shown the choice before anything is done; raises to give up."""


def fit(
    root: Path,
    out: Path,
    request: Request,
    command: Command,
    *,
    on_error: str = "skip",
    overwrite: bool = False,
    tell: Confirm = lambda choice, folder: None,
) -> dict[str, Any]:
    """Do all of it; returns and writes OUT/fit.json: what was asked for, what was chosen, what came of it.

    `command` runs a command line of this program. Raises UserError where a station fails; a second call goes on.
    """
    refuse_inside(root, out)
    if overwrite:
        forget(out)
    record = out / "fit.json"
    asked = {
        "folder": str(root.resolve()),
        "on_error": on_error,
        **asdict(request),
        "overrides": list(request.overrides),
    }
    folder = Folder.look(root)
    if record.exists():
        known: dict[str, Any] = read_json(record, "the fit's record", REMEDY)
        check_fingerprint(known["asked"], asked, f"the fit in {out}", REMEDY)
        choice = Choice(**known["choice"])
        config = fit_config(folder, request, choice, out)
        console.say(f"going on in {out}: {choice.images} images, {choice.steps} steps")
    else:
        choice = plan_fit(folder, request, out, _measure)
        config = fit_config(folder, request, choice, out)
        tell(choice, folder)
        known = {"format": FORMAT, "asked": asked, "choice": asdict(choice)}
        write_json(record, known)
    _write_inputs(folder, choice, config, out)
    _stations(folder, choice, config, out, request, command, on_error)
    known["result"] = _result(out, config)
    write_json(record, known)
    return known


def refuse_inside(root: Path, out: Path) -> None:
    """Raise UserError where results would become images of the next fit."""
    if out.resolve().is_relative_to(root.resolve()):
        raise UserError(f"{out} lies in {root}, so its pictures would be taken for yours; choose another --out")


def forget(out: Path) -> None:
    """Remove what a fit left in OUT. Raises UserError where OUT holds something else."""
    if not out.exists():
        return
    if not (out / "fit.json").exists():
        raise UserError(f"{out} is there and is no fit (it has no fit.json): it is not removed; choose another --out")
    shutil.rmtree(out)


def _measure(config: Config, crops: Crops) -> tuple[Facts, Figures]:
    facts, figures, _ = measure_config(config, None, crops, CLUSTERS, SEARCH)
    return facts, figures


def _write_inputs(folder: Folder, choice: Choice, config: Config, out: Path) -> None:
    """The card and the configuration, as the commands take them."""
    shown = [folder.keys[i] for i in evenly(len(folder), choice.shown)]
    some = choice.images < len(folder)
    trained = [folder.keys[i] for i in evenly(len(folder), choice.images)] if some else None
    card = folder_card(folder.root, shown, trained).model_dump(mode="json")
    for path, text in (
        (out / "card.yaml", yaml.safe_dump(card, sort_keys=False, allow_unicode=True)),
        (out / "fit.yaml", dump_config(config)),
    ):
        with atomic_path(path) as tmp:
            tmp.write_text(text, "utf-8")


def _stations(
    folder: Folder, choice: Choice, config: Config, out: Path, request: Request, command: Command, on_error: str
) -> None:
    run, settings = RunDir(out), str(out / "fit.yaml")
    stations = Stations(command, 5)
    stations.begin(f"packing {choice.images} images")
    stations.run(
        "shards", "build", str(out / "card.yaml"), "--source", str(folder.root), "--out", str(out / "shards"),
        "--crops", choice.crops, "--max-side", str(MAX_SIDE), "--on-error", on_error,
        *(["--workers", "1"] if choice.alone else []),
    )  # fmt: skip
    stations.begin(f"features of {config.backbone.name}, and each image's nearest neighbours")
    stations.run("knn", "build", settings)
    stations.begin(f"training the head for {choice.steps} steps")
    if not is_trained(run, config):
        stations.run("train", settings, "--resume")
    stations.begin("clusters")
    if request.classes is None and "count" not in OpenedRun.open(out).meta:
        stations.run("cluster", str(out), "--count", "auto")
    stations.begin("report")
    stations.run("eval", str(out))


def _result(out: Path, config: Config) -> dict[str, Any]:
    """What came of it; the file of names is written where there is none."""
    opened = OpenedRun.open(out)
    kind = config.eval.clusters
    if not opened.run.names.exists():
        write_names(opened.run.names, opened.names(kind), opened.digest(kind))
    rejected = out / "shards" / "rejected.jsonl"
    lines = [json.loads(line) for line in rejected.read_text("utf-8").splitlines()] if rejected.exists() else []
    return {
        "clusters": opened.segmenter.num_clusters,
        "label_free": opened.meta.get("label_free"),
        "count": opened.meta.get("count"),
        "rejected": len({line["file"] for line in lines}),
        "report": str(out / "report.html"),
        "names": str(opened.run.names),
    }
