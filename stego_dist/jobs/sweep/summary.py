"""What a sweep has found: sweep.json with every number, trials.csv, and best.yaml, which `train` takes as it is."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from scipy.stats import kruskal, rankdata, spearmanr

from stego_dist.config import dump_config
from stego_dist.errors import UserError
from stego_dist.jobs.sweep.banks import place_of
from stego_dist.jobs.sweep.plan import Folder, Plan, Result
from stego_dist.jobs.sweep.space import with_values
from stego_dist.jobs.sweep.tell import best_of, said, worded
from stego_dist.rundir import atomic_path, write_json

FORMAT = "stego_dist.sweep/1"
SCORE, LABELLED = "val/label_free", ("miou", "accuracy")
FEWEST, GROUPS = 8, 4
"""Finished trials from which on importance is estimated, and groups that numbers are cut into for it."""


def conclude(plan: Plan, folder: Folder) -> dict[str, Any]:
    """Write sweep.json, trials.csv and best.yaml of what is there; returns what sweep.json holds.

    Raises UserError when no trial was finished.
    """
    results = folder.results()
    best = best_of(results)
    if best is None:
        reasons = Counter(result.reason for result in results.values() if result.reason)
        often = f"; most often: {reasons.most_common(1)[0][0]}" if reasons else ""
        raise UserError(f"none of the {len(results)} trials of {folder.root} was finished{often}")
    found = {
        "format": FORMAT,
        "name": plan.base.name,
        "objective": plan.objective,
        "uses_labels": plan.uses_labels,
        "search": plan.search,
        "seed": plan.seed,
        "early_stop": plan.early_stop,
        "steps": plan.base.train.steps,
        "planned": plan.trials,
        "counts": _counts(results),
        "space": plan.space.describe(),
        "best": best.trial,
        "correlations": correlations(results),
        "importance": importance(plan, results),
        "trials": [asdict(result) for result in results.values()],
    }
    write_json(folder.root / "sweep.json", found)
    _write_csv(plan, folder, results)
    _write_best(plan, folder, best)
    return found


def correlations(results: Mapping[int, Result]) -> dict[str, dict[str, float | int]]:
    """Spearman's rank correlation of the label-free score with mIoU and accuracy, over finished trials with labels.

    Nothing where fewer than three trials have both, or one of them is constant.
    """
    found: dict[str, dict[str, float | int]] = {}
    for name in LABELLED:
        both = [r.numbers for r in results.values() if r.state == "done" and SCORE in r.numbers and name in r.numbers]
        pairs = [(numbers[SCORE], numbers[name]) for numbers in both]
        if len(pairs) >= 3 and all(len(set(column)) > 1 for column in zip(*pairs)):
            found[name] = {"spearman": float(spearmanr(*zip(*pairs)).statistic), "trials": len(pairs)}
    return found


def importance(plan: Plan, results: Mapping[int, Result]) -> dict[str, Any]:
    """How much of the finished trials' ranks by objective each key explains by itself, 0 to 1; see `main_effect`.

    No shares but a reason with few trials.
    """
    done = [result for result in results.values() if result.state == "done" and result.objective is not None]
    found: dict[str, Any] = {"method": "Kruskal–Wallis ε²", "trials": len(done)}
    if len(done) < FEWEST:
        return {**found, "shares": None, "why": f"at least {FEWEST} finished trials are needed"}
    reached = [result.objective or 0.0 for result in done]
    if len(set(reached)) < 2:
        return {**found, "shares": None, "why": "all trials reached the same"}
    return {
        **found,
        "shares": {key: main_effect([result.values[key] for result in done], reached) for key in plan.space.kinds},
    }


def main_effect(values: Sequence[Any], reached: Sequence[float]) -> float:
    """Share of the variance of ranks that groups of equal, or of similar, values explain, less what chance would.

    ε² = (H − k + 1) / (n − k), H of Kruskal and Wallis for k groups of n trials; not below 0. Of ranks, because
    collapsed trials lie far off; more than GROUPS numbers are cut into as many groups of equal size. What keys only do
    together is not in it.
    """
    names = [json.dumps(value) for value in values]
    if len(set(names)) > GROUPS and all(isinstance(value, int | float) for value in values):
        groups = min(GROUPS, len(values) // 4)
        places = (rankdata(values, "ordinal") - 1) * groups // len(values)
        names = [str(place) for place in places]
    parts = [[score for name, score in zip(names, reached) if name == group] for group in sorted(set(names))]
    n, k = len(reached), len(parts)
    if k < 2 or k >= n:
        return 0.0
    return max(0.0, (float(kruskal(*parts).statistic) - k + 1) / (n - k))


def _counts(results: Mapping[int, Result]) -> dict[str, int]:
    states = Counter(result.state for result in results.values())
    collapsed = sum(bool(result.warnings) for result in results.values())
    return {state: states[state] for state in ("done", "stopped", "failed")} | {"collapsed": collapsed}


def _write_csv(plan: Plan, folder: Folder, results: Mapping[int, Result]) -> None:
    """A line a trial: what is repeatable first, times last."""
    keys = list(plan.space.kinds)
    numbers = sorted({name for result in results.values() for name in result.numbers})
    numbers.sort(key=lambda name: name.startswith("seconds/"))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    head = ["trial", "state", "collapsed", "objective", "step", *keys, "reason"]
    writer.writerow([*head, *numbers, "seconds"])
    for result in results.values():
        values = [_cell(result.values[key]) for key in keys]
        row = [result.trial, result.state, int(bool(result.warnings)), _cell(result.objective), result.step, *values]
        writer.writerow([*row, result.reason or "", *(_cell(result.numbers.get(n)) for n in numbers), result.seconds])
    with atomic_path(folder.root / "trials.csv") as tmp:
        tmp.write_text(text.getvalue(), "utf-8")


def _cell(value: Any) -> Any:
    if value is None:
        return ""
    return json.dumps(value) if isinstance(value, list | dict | bool) else value


def _write_best(plan: Plan, folder: Folder, best: Result) -> None:
    path = folder.root / "best.yaml"
    place = place_of(plan.base, plan.space, best.values)
    config = with_values(plan.base, {**best.values, **place, "run_dir": f"{plan.base.run_dir}_best"})
    labels = "labels of the evaluation split were used to choose it" if plan.uses_labels else "chosen without labels"
    header = (
        f"# Trial {best.trial} of {len(folder.results())}, the best by {said(plan)}: {best.objective:.6g}; {labels}.\n"
        f"# Sampled: {worded(best.values)}\n#\n#   stego-dist train {path}\n"
    )
    with atomic_path(path) as tmp:
        tmp.write_text(header + dump_config(config), "utf-8")
