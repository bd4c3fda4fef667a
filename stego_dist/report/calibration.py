"""A calibration for people: its table, its picture as one SVG file, and the overrides that set the same by hand.

In: the record of engine/calibrate.py and the configuration it is for. Out: `calibration.json` and `calibration.svg`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup
from rich.table import Table

from stego_dist import console
from stego_dist.config import Config
from stego_dist.report.charts import drawing
from stego_dist.report.figures import histogram_charts
from stego_dist.report.tables import percent
from stego_dist.rundir import atomic_path, write_json, writing_to

WIDTH, TITLE, NOTE, GAP = 720, 20, 18, 14
STYLE = """
text { font: 12px sans-serif; fill: #5a626d } text.title { font-weight: 600; font-size: 14px; fill: #1b1e23 }
text.mark { fill: #1b1e23; font-weight: 600 } line.grid { stroke: #d5dae0 }
line.mark { stroke: #1b1e23; stroke-dasharray: 5 3 }
polyline { fill: none; stroke: #1f5fa8; stroke-width: 1.8 } polygon { fill: #1f5fa8; opacity: .3 }
"""


def write_calibration(record: Mapping[str, Any], config: Config, folder: Path) -> dict[str, Any]:
    """Write both files; returns what calibration.json holds: the record, overrides, and the picture's path."""
    picture = folder / "calibration.svg"
    shown = {**record, "overrides": overrides(record), "picture": str(picture)}
    with writing_to(folder, "Another folder is named with --out."):
        with atomic_path(picture) as tmp:
            tmp.write_text(draw_picture(record, config), "utf-8")
        write_json(folder / "calibration.json", shown)
    return shown


def overrides(record: Mapping[str, Any]) -> list[str]:
    """The chosen coefficients as settings."""
    return [
        f"loss.{kind}_pair.{key}={entry[key]:g}"
        for kind, entry in record["kinds"].items()
        for key in ("shift", "weight")
    ]


def draw_picture(record: Mapping[str, Any], config: Config) -> str:
    """The histograms below each other, with the chosen shifts and those that the configuration sets by hand."""
    by_hand = {kind: pair.shift for kind, pair in config.loss.pairs.items() if not isinstance(pair.shift, str)}
    more = {kind: [(shift, f"configured {shift:.3g}")] for kind, shift in by_hand.items()}
    parts, top = [], GAP
    for chart in histogram_charts(record, width=WIDTH, more=more):
        below = top + TITLE + chart.height
        words = '<text class="title" x="12" y="{}">{}</text><text x="12" y="{}">{}</text>'
        parts.append(Markup(words).format(top + 14, chart.title, below + 12, chart.note))
        parts.append(Markup('<g transform="translate(0 {})">{}</g>').format(top + TITLE, drawing(chart)))
        top = below + NOTE + GAP
    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {w} {h}" width="{w}" height="{h}"><style>{style}</style>'
        '<rect width="100%" height="100%" fill="#ffffff"/>{parts}</svg>\n'
    )
    return str(Markup(svg).format(w=WIDTH, h=top, style=Markup(STYLE), parts=Markup("").join(parts)))


def print_calibration(shown: Mapping[str, Any], config: Config, name: str) -> None:
    """The table on stdout, how to use it, and where the files lie; name: of the configuration, as it was given."""
    console.out.print(_table(shown, config))
    if shown["clusters"] is None:
        console.out.print("The number of clusters is not known (clusters.count): no share of pairs in one cluster.")
    if any("auto" in (pair.weight, pair.shift) for pair in config.loss.pairs.values()):
        console.out.print(f"What is auto takes these numbers: stego-dist train {name}", markup=False, soft_wrap=True)
    else:
        auto = " ".join(f"loss.{kind}_pair.shift=auto" for kind in shown["kinds"])
        console.out.print(f"Nothing is auto; to have it calibrated: {auto}", markup=False, soft_wrap=True)
    console.out.print("The same by hand: " + " ".join(shown["overrides"]), markup=False, soft_wrap=True)
    console.out.print(f"picture {shown['picture']}", markup=False, soft_wrap=True)


def _table(shown: Mapping[str, Any], config: Config) -> Table:
    what = "centred correspondences" if shown["centred"] else "correspondences"
    table = Table(
        title=f"{what} of training pairs: {shown['anchors']} anchors of {shown['images']} images",
        caption=f"The rule: {shown['rule']['name']}. What is above its shift attracts, what is below repels.",
    )
    table.add_column("")
    kinds = shown["kinds"]
    for kind in kinds:
        table.add_column(f"{kind} pairs", justify="right")

    def row(name: str, form: Callable[[Mapping[str, Any]], str], **style: Any) -> None:
        table.add_row(name, *(form(entry) for entry in kinds.values()), **style)

    row("number", lambda entry: f"{entry['pairs']:,}")
    row("mean", lambda entry: f"{entry['mean']:.3f}")
    for number, share in enumerate(shown["quantiles"]):
        row(f"quantile {100 * share:g} %", lambda entry, n=number: f"{entry['quantiles'][n]:.3f}")  # type: ignore[misc]
    row("in one raw cluster, %", lambda entry: percent(entry["same_cluster"]), end_section=True)
    row("chosen shift", lambda entry: f"{entry['shift']:.4g}", style="bold")
    row("chosen weight", lambda entry: f"{entry['weight']:.4g}", style="bold")
    row("above the shift, %", lambda entry: percent(entry["above_shift"]), end_section=True)
    pairs = config.loss.pairs.values()
    for key in ("shift", "weight"):
        values = (getattr(pair, key) for pair in pairs)
        table.add_row(f"configured {key}", *(v if isinstance(v, str) else f"{v:.4g}" for v in values))
    row("above that shift, %", lambda entry: percent(entry["above_configured"]))
    return table
