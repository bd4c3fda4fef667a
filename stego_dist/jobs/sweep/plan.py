"""What a sweep is asked for, and the folder that holds it.

SWEEP/sweep.yaml              the plan: base configuration, space, search, objective, seed
SWEEP/trials/0007/trial.json  the values of trial 7, written before it begins
                  config.yaml its configuration: the base's but for sampled keys, its folders, fewer codes to cluster
                  result.json what became of it, written once, at its end: the truth about the sweep
                  run/        its run directory
SWEEP/best.yaml trials.csv sweep.json sweep.html    at the end
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from stego_dist.config import Config, dump_config
from stego_dist.config.load import validate
from stego_dist.errors import UserError
from stego_dist.jobs.sweep.banks import place_of
from stego_dist.jobs.sweep.space import Space, Values, read_space, with_values
from stego_dist.rundir import RunDir, atomic_path, check_fingerprint, read_json, write_json

Search = Literal["random", "grid", "optuna"]
Objective = Literal["label_free", "miou"]
NUMBERS: dict[Objective, tuple[str, str]] = {
    "label_free": ("val/label_free", "val/label_free"),
    "miou": ("miou", "val/miou_learned"),
}
"""What the objective is called among a finished trial's numbers, and among those of a validation."""
POINTS, SCREEN = 50_000, 10_000
"""clusters.points of trials, at most, and clusters.screen, where they are not sampled: clusters of as many codes as a
run takes would cost a trial up to ten seconds more (of CPU, on CamVid)."""
USES_LABELS = ("miou",)
REMEDY = "Repeat the command with --overwrite, or choose another folder with --out."


@dataclass(frozen=True)
class Plan:
    """A sweep."""

    base: Config
    space: Space
    search: Search = "random"
    objective: Objective = "label_free"
    seed: int = 0
    early_stop: Literal["off", "asha"] = "off"
    grace: int = 1
    """ASHA: steps that every trial gets."""
    reduction: float = 3.0
    """ASHA: one in so many goes on at each rung."""
    processes: int = 1
    """Of each trial."""
    trials: int = 1
    """All of them, at every point of the crossed grids."""

    @property
    def uses_labels(self) -> bool:
        """Whether the objective looks at labels."""
        return self.objective in USES_LABELS

    def to_yaml(self) -> dict[str, Any]:
        """What sweep.yaml holds."""
        simple = {key: value for key, value in vars(self).items() if key not in ("base", "space")}
        return {**simple, "space": self.space.to_yaml(), "config": self.base.model_dump(mode="json")}

    def lasting(self) -> dict[str, Any]:
        """What must be the same when the sweep is resumed; the number of trials may grow."""
        tree = self.to_yaml()
        del tree["trials"]
        return _flat(tree)


@dataclass(frozen=True)
class Result:
    """What became of a trial."""

    trial: int
    state: Literal["done", "stopped", "failed"]
    """`stopped`: early, by ASHA."""
    values: Values
    objective: float | None = None
    step: int = 0
    numbers: dict[str, float] = field(default_factory=dict)
    curve: list[tuple[int, float]] = field(default_factory=list)
    """Step and objective of each validation."""
    warnings: list[str] = field(default_factory=list)
    """Kinds of collapse."""
    reason: str | None = None
    """Why it failed."""
    seconds: float = 0.0
    finished: float = 0.0
    """Unix time."""


class Folder:
    """The paths of a sweep and of its trials."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()

    @property
    def plan(self) -> Path:
        """What was asked for."""
        return self.root / "sweep.yaml"

    @property
    def tune(self) -> Path:
        """What Ray Tune writes for itself; nothing reads it."""
        return self.root / ".tune"

    def trial(self, n: int) -> Path:
        """Folder of a trial."""
        return self.root / "trials" / f"{n:04d}"

    def config(self, n: int) -> Path:
        """Its configuration."""
        return self.trial(n) / "config.yaml"

    def result(self, n: int) -> Path:
        """What became of it."""
        return self.trial(n) / "result.json"

    def run(self, n: int) -> RunDir:
        """Its run directory."""
        return RunDir(self.trial(n) / "run")

    def values(self, n: int) -> Values | None:
        """What it was begun with, if it was."""
        path = self.trial(n) / "trial.json"
        return dict(read_json(path, "a trial", REMEDY)["values"]) if path.exists() else None

    def write_trial(self, n: int, values: Values, config: Config) -> None:
        """Write its configuration and, last, its values."""
        with atomic_path(self.config(n)) as tmp:
            tmp.write_text(dump_config(config), "utf-8")
        write_json(self.trial(n) / "trial.json", {"trial": n, "values": values})

    def write_result(self, result: Result) -> None:
        """Write what became of a trial, unless that is known."""
        if not self.result(result.trial).exists():
            write_json(self.result(result.trial), asdict(result))

    def read_result(self, n: int) -> Result | None:
        """What became of a trial, if that is known."""
        path = self.result(n)
        if not path.exists():
            return None
        known = read_json(path, "the result of a trial", "Remove this file and repeat the command with --resume.")
        return Result(**{**known, "curve": [(int(step), float(value)) for step, value in known["curve"]]})

    def results(self) -> dict[int, Result]:
        """All that are known, by trial."""
        numbers = sorted(int(path.parent.name) for path in self.root.glob("trials/*/result.json"))
        return {n: result for n in numbers if (result := self.read_result(n)) is not None}


def trial_config(plan: Plan, folder: Folder, n: int, values: Mapping[str, Any]) -> Config:
    """A trial's configuration: its values, a run directory of its own, where features that fit them lie, and fewer
    codes to cluster."""
    place, c = place_of(plan.base, plan.space, values), plan.base.clusters
    fewer = {"clusters.points": min(c.points, POINTS), "clusters.screen": c.screen or SCREEN}
    return with_values(plan.base, {**fewer, **values, **place, "run_dir": str(folder.run(n).root)})


def begin(plan: Plan, folder: Folder, *, resume: bool, overwrite: bool) -> None:
    """Write the plan, or check that it is the one that was begun. Raises UserError when the folder holds another."""
    if overwrite and folder.plan.exists():
        shutil.rmtree(folder.root)
    if folder.plan.exists():
        if not resume:
            raise UserError(
                f"{folder.root} already holds a sweep; continue it with --resume, start anew with --overwrite, or "
                "choose another folder with --out"
            )
        check_fingerprint(read_plan(folder).lasting(), plan.lasting(), f"the sweep {folder.root}", REMEDY)
    elif folder.root.exists() and any(folder.root.iterdir()):
        raise UserError(f"{folder.root} holds files that are no sweep's; choose another folder with --out")
    with atomic_path(folder.plan) as tmp:
        tmp.write_text(yaml.safe_dump(plan.to_yaml(), sort_keys=False, allow_unicode=True), "utf-8")


def read_plan(folder: Folder) -> Plan:
    """The plan of a sweep. Raises UserError when the folder is none, or is not visible on this machine."""
    if not folder.plan.exists():
        raise UserError(
            f"{folder.plan} does not exist: {folder.root} is no sweep, or not on a file system that all nodes share"
        )
    tree = yaml.safe_load(folder.plan.read_text("utf-8"))
    base = validate(tree.pop("config"), str(folder.plan))
    return Plan(base=base, space=read_space(tree.pop("space"), base, str(folder.plan)), **tree)


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = list(value) if isinstance(value, tuple) else value
    return flat
