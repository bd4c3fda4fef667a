"""The report's figures, from results.json: correspondences, precision and recall, curves of training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from stego_dist.report.charts import Chart, Series, draw
from stego_dist.report.tables import readable

KINDS = {
    "self": "an image with itself",
    "knn": "an image with a near neighbour",
    "random": "an image with a random one",
}
SCORES = {"features": "cosine of features", "codes": "cosine of codes", "crf": "the CRF's kernel"}
PAIRS = {
    "within": "Two positions of one image",
    "knn": "An image and its nearest",
    "random": "An image and a random one",
}
CURVES: Sequence[tuple[str, str, str, tuple[str, ...]]] = (
    ("Correspondence loss", "loss", "loss/", ("correspondence", "self", "knn", "random")),
    ("Loss of the probes", "loss", "loss/", ("cluster", "linear")),
    ("Code correlation of pairs", "mean cosine", "code_correlation/", ("self", "knn", "random")),
    ("Pairs above their shift", "share", "above_shift/", ("self", "knn", "random")),
    ("Adaptive shifts", "shift", "shift/", ("self", "knn", "random")),
    ("Validation: mIoU", "mIoU", "val/miou_", ("learned", "linear")),
    ("Validation: accuracy", "accuracy", "val/accuracy_", ("learned", "linear")),
    ("Validation: label-free score", "score", "val/", ("label_free", "information", "agreement", "spread")),
)
"""Title, axis, beginning of the names, and the names."""
Marks = Mapping[str, Sequence[tuple[float, str]]]
NAMES = {"correspondence": "all three, weighted", "label_free": "score", "spread": "1 − mean code correlation"}


def histograms(results: Mapping[str, Any]) -> list[Markup]:
    """One figure for each kind of pairs, its shift drawn in; none where nothing was measured."""
    found = (results.get("correspondences") or {}).get("training")
    return [draw(chart) for chart in histogram_charts(found)] if found else []


def histogram_charts(found: Mapping[str, Any], *, width: int = 370, more: Marks | None = None) -> list[Chart]:
    """A chart for each kind of pairs of what training_histograms or a calibration found. `more`: marks by kind."""
    edges = found["edges"]
    charts = []
    for kind, entry in found["kinds"].items():
        shares = [100 * count / max(1, entry["pairs"]) for count in entry["counts"]]
        x = [edge for edge in edges for _ in range(2)][1:-1]  # steps: both ends of every bin
        y = [share for share in shares for _ in range(2)]
        note, marks = f"Mean {entry['mean']:.2f} of {entry['pairs']:,} pairs; the shift is not known.", []
        if entry["shift"] is not None:
            weight = "" if entry["weight"] is None else f"; weight {entry['weight']:.3g}"
            marks = [(entry["shift"], f"shift {entry['shift']:.3g}")]
            note = (
                f"Mean {entry['mean']:.2f}; {100 * entry['above_shift']:.1f} % of {entry['pairs']:,} pairs lie above "
                f"the shift {entry['shift']:.3g} and attract{weight}."
            )
        chart = Chart(
            title=f"{kind}: {KINDS[kind]}", x_label="centred correspondence" if found["centred"] else "correspondence",
            y_label="% of pairs", series=[Series(kind, x, y)], note=note, filled=True, width=width, height=230,
            marks=[*marks, *(more or {}).get(kind, [])], x_range=(edges[0], edges[-1]), y_range=(0, max(shares) or 1),
        )  # fmt: skip
        charts.append(chart)
    return charts


def precision_recall_figures(results: Mapping[str, Any]) -> list[Markup]:
    """One figure for each kind of pairs of evaluation images."""
    found = (results.get("correspondences") or {}).get("labels")
    figures = []
    for kind, entry in (found or {"pairs": {}})["pairs"].items():
        series, said = [], []
        for name, curve in entry["curves"].items():
            series.append(Series(SCORES[name], [0.0, *curve["recall"]], [curve["precision"][0], *curve["precision"]]))
            said.append(f"{SCORES[name]} {curve['average_precision']:.3f}")
        note = (
            f"Average precision: {', '.join(said)}; by chance {entry['same_label']:.3f}, the share of the "
            f"{entry['pairs']:,} pairs that has one label."
        )
        chart = Chart(
            title=PAIRS[kind], x_label="recall", y_label="precision", series=series, note=note, x_range=(0, 1),
            y_range=(0, 1), width=370, height=260,
        )  # fmt: skip
        figures.append(draw(chart))
    return figures


def count_figure(results: Mapping[str, Any]) -> Markup | None:
    """Margin and label-free score over numbers of clusters, where the number was chosen by them."""
    found = results.get("count")
    if not found:
        return None
    tried = found["tried"]
    x = [float(each["count"]) for each in tried]
    series = [
        Series(what, x, [each[key] for each in tried])
        for key, what in (("margin", "margin"), ("score", "label-free score"), ("agreement", "agreement"))
    ]
    note = f"{found['chosen']} clusters were chosen: {found['rule']}. No labels entered."
    return draw(
        Chart(
            "How many clusters?", "clusters", "", series, note, marks=[(float(found["chosen"]), "chosen")],
            y_range=(0, 1),
        )
    )  # fmt: skip


def training_figures(results: Mapping[str, Any]) -> list[Markup]:
    """Losses, correlations and validations over steps, each where it was logged."""
    curves = results.get("training") or {}
    figures = []
    for title, axis, beginning, names in CURVES:
        there = [name for name in names if beginning + name in curves]
        if not there:
            continue
        series = [
            Series(NAMES.get(name, readable(name)), curves[beginning + name]["step"], curves[beginning + name]["value"])
            for name in there
        ]
        ends = [f"{s.name} {s.y[0]:.3g} → {s.y[-1]:.3g}" for s in series]
        note = f"Steps {series[0].x[0]:,} to {series[0].x[-1]:,}: {'; '.join(ends)}."
        figures.append(draw(Chart(title, "step", axis, series, note)))
    return figures
