"""The result as rows, for the terminal and for the page: ours, the baselines', the published ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table

from stego_dist import console
from stego_dist.report.published import PUBLISHED
from stego_dist.rundir import RunDir

NAMES = {
    "kmeans": "k-means over codes",
    "learned": "learned cluster probe",
    "linear": "linear probe (labels)",
    "linear_converged": "linear probe to convergence (labels)",
}

USE = {
    "largest": "largest",
    "median": "median",
    "smallest": "smallest",
    "entropy": "entropy of the most",
    "agreement": "same in the mirror image",
}
"""What is said of the use of clusters beside their number, by its key in results.json."""


@dataclass(frozen=True)
class Row:
    """One line of the main table; shares in 0…1 or None."""

    what: str
    backbone: str
    accuracy: float | None
    miou: float | None
    headline: bool = False
    source: str = "this run"


def readable(name: str) -> str:
    """The name of a measure for people: "kmeans+crf" → "k-means over codes, CRF"."""
    base = NAMES.get(name.removesuffix("+crf"), name.removesuffix("+crf"))
    return base + (", CRF" if name.endswith("+crf") else "")


def main_rows(results: dict[str, Any]) -> list[Row]:
    """Ours, then baselines, then published rows of the same data set."""
    backbone = results["backbone"]
    rows = []
    for name, entry in results.get("measures", {}).items():
        headline = name == results["headline_clusters"]
        rows.append(Row(f"STEGO, {readable(name)}", backbone, entry["accuracy"], entry["miou"], headline))
        if "published_counting" in entry:
            counted = entry["published_counting"]
            what = f"STEGO, {readable(name)} (published counting of extra clusters)"
            rows.append(Row(what, backbone, counted["accuracy"], counted["miou"]))
        if "majority_matching" in entry:
            counted = entry["majority_matching"]
            what = f"STEGO, {readable(name)} (clusters share classes, by majority)"
            rows.append(Row(what, backbone, counted["accuracy"], counted["miou"]))
    for resolution, found in results.get("more_resolutions", {}).items():
        for name, entry in found.get("measures", {}).items():
            what = f"STEGO, {readable(name)}, {resolution} pixels"
            rows.append(Row(what, backbone, entry["accuracy"], entry["miou"]))
    for title, baseline in results.get("baselines", {}).items():
        for name, entry in baseline.get("measures", {}).items():
            what = _of_baseline(title, baseline, name)
            rows.append(Row(what, baseline.get("backbone", backbone), entry["accuracy"], entry["miou"]))
    for row in PUBLISHED.get(results["dataset"], ()):
        for kind, accuracy, miou in (
            ("", row.accuracy, row.miou),
            (", linear", row.linear_accuracy, row.linear_miou),
        ):
            if accuracy is not None:
                share = miou / 100 if miou is not None else None
                rows.append(Row(f"{row.method}{kind}", row.backbone, accuracy / 100, share, source=row.source))
    return rows


@dataclass(frozen=True)
class UseRow:
    """How clusters divide the pixels of a split without labels; shares in 0…1 or None (engine/scoring.py)."""

    what: str
    backbone: str
    use: dict[str, Any]
    headline: bool = False


def use_rows(results: dict[str, Any]) -> list[UseRow]:
    """Ours, also at more resolutions, then baselines; none with labels."""
    backbone, headline = results["backbone"], results["headline_clusters"]
    rows = [
        UseRow(f"STEGO, {readable(name)}", backbone, use, name == headline)
        for name, use in results.get("cluster_use", {}).items()
    ]
    for resolution, found in results.get("more_resolutions", {}).items():
        for name, use in found.get("cluster_use", {}).items():
            rows.append(UseRow(f"STEGO, {readable(name)}, {resolution} pixels", backbone, use))
    for title, baseline in results.get("baselines", {}).items():
        for name, use in baseline.get("cluster_use", {}).items():
            rows.append(UseRow(_of_baseline(title, baseline, name), baseline.get("backbone", backbone), use))
    return rows


def _of_baseline(title: str, baseline: dict[str, Any], name: str) -> str:
    """The name of a baseline's measure for people."""
    words, base = baseline.get("words", {"kmeans": "k-means"}), name.removesuffix("+crf")
    return f"{title}, {words.get(base, readable(base))}" + ", CRF" * (base != name)


def percent(value: float | None) -> str:
    """42.1, or a dash."""
    return "–" if value is None else f"{100 * value:.1f}"


def mean_and_spread(found: dict[str, Any]) -> str:
    """42.1 ± 0.3 of what engine/scoring.py's `spread` gives for accuracy or mIoU."""
    deviation = "" if found["std"] is None else f" ± {percent(found['std'])}"
    return percent(found["mean"]) + deviation


def print_spread(runs: Sequence[str], results: Sequence[dict[str, Any]], spread: dict[str, Any]) -> None:
    """Several evaluated runs side by side, and the mean and standard deviation over them."""
    table = Table(title="accuracy / mIoU, %, over runs: mean ± standard deviation")
    table.add_column("method")
    for run in runs:
        table.add_column(run, justify="right")
    table.add_column("accuracy", justify="right")
    table.add_column("mIoU", justify="right")
    for name, found in spread.items():
        entries = [result["measures"][name] for result in results]
        each = [f"{percent(entry['accuracy'])} / {percent(entry['miou'])}" for entry in entries]
        table.add_row(readable(name), *each, mean_and_spread(found["accuracy"]), mean_and_spread(found["miou"]))
    console.out.print(table)


def selection(results: dict[str, Any]) -> str:
    """How the evaluated weights were chosen, in words; "" where nothing was chosen."""
    chosen = results.get("selected") or {"by": "last"}
    if chosen["by"] == "last":
        return ""
    how = "label-free score" if chosen["by"] == "label_free" else "mIoU, that is by labels"
    return f"weights of step {chosen['step']}, selected by {how} ({chosen['score']:.3f})"


def print_results(results: dict[str, Any], run: RunDir) -> None:
    """The tables on stdout and where the files lie."""
    if results["labelled"]:
        console.out.print(_main_table(results))
        console.out.print(_class_table(results))
        for name, found in results.get("cluster_seeds", {}).items():
            accuracy, miou = mean_and_spread(found["accuracy"]), mean_and_spread(found["miou"])
            console.out.print(f"{readable(name)}, {found['count']} seeds: accuracy {accuracy} %, mIoU {miou} %")
        if results["dataset"] not in PUBLISHED:
            console.out.print(f"No published STEGO result is known for {results['dataset']}.", style="dim")
        if results["classes_without_pixels"]:
            absent = ", ".join(results["classes_without_pixels"])
            console.out.print(f"Classes without labelled pixels: {absent} (left out of the mean unless predicted).")
        if any("published_counting" in entry for entry in results["measures"].values()):
            console.out.print("More clusters than classes: unmatched ones count as wrong unless said otherwise.")
    else:
        console.out.print(_use_table(results))
        console.out.print(_share_table(results))
        console.out.print("No labels in this split: no accuracy and no mIoU.")
    for name, reason in results.get("unavailable_baselines", {}).items():
        console.out.print(f"Baseline {name} could not be had: {reason}", markup=False, soft_wrap=True)
    console.out.print(f"results {run.results} · pictures {run.panels} · report {run.root / 'report.html'}")


def _title(results: dict[str, Any]) -> str:
    crf = {"none": "no CRF"}.get(results["crf"], "")
    chosen = selection(results)
    whole = "whole images" if results.get("crop") == "none" else ""
    title = f"{results['run']}: {results['images']} images of {results['dataset']}/{results['split']}, "
    return title + ", ".join(
        filter(None, [f"{results['resolution']} pixels", whole, "flip-averaged" * results["flip"], crf, chosen])
    )


def _main_table(results: dict[str, Any]) -> Table:
    table = Table(title=_title(results))
    for column in ("method", "backbone"):
        table.add_column(column)
    for column in ("accuracy %", "mIoU %"):
        table.add_column(column, justify="right")
    table.add_column("source")
    for row in main_rows(results):
        style = "bold" if row.headline else None
        table.add_row(row.what, row.backbone, percent(row.accuracy), percent(row.miou), row.source, style=style)
    return table


def _class_table(results: dict[str, Any]) -> Table:
    table = Table(title="IoU per class, %")
    table.add_column("class")
    for name in results["measures"]:
        table.add_column(readable(name), justify="right")
    for label in results["classes"]:
        table.add_row(label, *(percent(entry["iou"][label]) for entry in results["measures"].values()))
    return table


def _use_table(results: dict[str, Any]) -> Table:
    table = Table(title=_title(results))
    for column in ("clusters", "backbone"):
        table.add_column(column)
    for column in ("used", *(f"{title} %" for title in USE.values())):
        table.add_column(column, justify="right")
    for row in use_rows(results):
        shares = (percent(row.use[key]) for key in USE)
        used = f"{row.use['used']} of {row.use['clusters']}"
        table.add_row(row.what, row.backbone, used, *shares, style="bold" if row.headline else None)
    return table


def _share_table(results: dict[str, Any]) -> Table:
    table = Table(title=f"{results['run']}: share of each cluster, %")
    table.add_column("cluster")
    shares = results["cluster_shares"]
    for name in shares:
        table.add_column(readable(name), justify="right")
    for cluster in range(max(len(values) for values in shares.values())):
        table.add_row(str(cluster), *(percent(v[cluster]) if cluster < len(v) else "" for v in shares.values()))
    return table
