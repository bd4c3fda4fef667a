"""SWEEP/sweep.html: one self-contained file, no network; and what is printed of a sweep. Made from sweep.json.

Nothing is computed here but ranks and places: every number is sweep.json's.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup
from PIL import Image
from rich.table import Table

from stego_dist import console
from stego_dist.engine.validate import Validation
from stego_dist.report.charts import Chart, Series, draw
from stego_dist.report.page import environment
from stego_dist.report.parallel import Line, draw_parallel, key_axis, score_axis
from stego_dist.report.pictures import SIDE, Pixels, panel_layers
from stego_dist.report.tables import percent
from stego_dist.rundir import atomic_path

SCORE = "val/label_free"
NAMES = {"label_free": "label-free score", "miou": "mIoU"}
SHOWN = 10
"""Rows of the printed table."""
Palette = Sequence[tuple[int, int, int]]
Found = Mapping[str, Any]


def write_sweep_page(folder: Path, found: Found, validations: Mapping[int, Validation], palette: Palette) -> Path:
    """Write the page of `found` (sweep.json); `validations` of the trials whose pictures are shown, the best first."""
    trials = ranked(found)
    labelled = any("miou" in trial["numbers"] for trial in trials)
    html = (
        environment()
        .get_template("sweep.html.j2")
        .render(
            found=found,
            objective=objective(found),
            best=next(trial for trial in trials if trial["trial"] == found["best"]),
            trials=trials,
            labelled=labelled,
            parallel=_parallel(found, trials, labelled),
            progress=_progress(found),
            scatters=_scatters(found),
            sentences=sentences(found),
            images=_images(validations, palette),
            short=short,
        )
    )
    path = folder / "sweep.html"
    with atomic_path(path) as tmp:
        tmp.write_text(html, "utf-8")
    return path


def ranked(found: Found) -> list[dict[str, Any]]:
    """Trials: finished ones by objective, those that collapsed last; then the stopped, then the failed ones."""
    order = ("done", "stopped", "failed")

    def place(trial: dict[str, Any]) -> tuple[int, bool, float, int]:
        return order.index(trial["state"]), bool(trial["warnings"]), -(trial["objective"] or 0.0), trial["trial"]

    return sorted(found["trials"], key=place)


def best_trials(found: Found, count: int) -> list[int]:
    """Numbers of the best finished trials, the best first."""
    return [trial["trial"] for trial in ranked(found) if trial["state"] == "done"][:count]


def objective(found: Found) -> str:
    """What was maximised, and whether it uses labels."""
    return NAMES[found["objective"]] + (", which uses labels" if found["uses_labels"] else ", without labels")


def sentences(found: Found) -> list[str]:
    """What the rank correlations say; none without labels."""
    said = []
    for name, entry in found["correlations"].items():
        what = NAMES.get(name, name)
        said.append(
            f"Spearman's rank correlation of the label-free score with {what}: {entry['spearman']:.2f} over "
            f"{entry['trials']} finished trials."
        )
    return said


def short(key: str) -> str:
    """The last two parts of a key."""
    return ".".join(key.split(".")[-2:])


def print_sweep(found: Found, folder: Path) -> None:
    """The best trials on stdout, the correlations, and where the files lie."""
    counts, keys = found["counts"], [entry["key"] for entry in found["space"]]
    title = f"{found['name']}: {counts['done']} of {found['planned']} trials finished"
    title += "".join(f", {counts[state]} {state}" for state in ("stopped", "failed", "collapsed") if counts[state])
    table = Table(title=f"{title}; best {objective(found)}")
    table.add_column("trial", justify="right")
    scores = {"miou": "mIoU %", "accuracy": "accuracy %"}
    shown = {name: title for name, title in scores.items() if any(name in t["numbers"] for t in found["trials"])}
    for title in (NAMES[found["objective"]], *shown.values(), *map(short, keys)):
        table.add_column(title, justify="right", overflow="fold")
    for trial in ranked(found)[:SHOWN]:
        reached = f"{trial['objective']:.4f}" if trial["objective"] is not None else "–"
        reached += {"done": " collapsed" if trial["warnings"] else ""}.get(trial["state"], f" {trial['state']}")
        numbers = [percent(trial["numbers"].get(name)) for name in shown]
        cells = [_value(trial["values"][key]) for key in keys]
        style = "bold" if trial["trial"] == found["best"] else None
        table.add_row(str(trial["trial"]), reached, *numbers, *cells, style=style)
    console.out.print(table)
    for sentence in sentences(found):
        console.out.print(sentence, soft_wrap=True, highlight=False)
    files = [f"stego-dist train {folder / 'best.yaml'}", f"{folder / 'trials.csv'}", f"{folder / 'sweep.html'}"]
    console.out.print(" · ".join(files), soft_wrap=True, highlight=False)


def _value(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _parallel(found: Found, trials: Sequence[dict[str, Any]], labelled: bool) -> Markup:
    keys = [entry["key"] for entry in found["space"]]
    rows = {t["trial"]: [t["numbers"].get("miou")] if labelled else [] for t in trials}
    if not found["uses_labels"] or not labelled:
        rows = {t["trial"]: [t["objective"], *rows[t["trial"]]] for t in trials}
    titles = [NAMES["label_free"], NAMES["miou"]] if not found["uses_labels"] else [NAMES["miou"]]
    columns = zip(*rows.values())
    axes = [key_axis(entry) for entry in found["space"]]
    axes += [score_axis(title, column) for title, column in zip(titles, columns)]
    known = sorted(t["objective"] for t in trials if t["objective"] is not None)
    lines = []
    for trial in reversed(trials):
        worth = known.index(trial["objective"]) / max(1, len(known) - 1) if trial["objective"] is not None else 0.0
        state = trial["state"] + " collapsed" * bool(trial["warnings"]) + " best" * (trial["trial"] == found["best"])
        values = [*(trial["values"][key] for key in keys), *rows[trial["trial"]]]
        lines.append(Line(trial["trial"], state, values, worth, _title(trial, keys)))
    note = f"{len(trials)} trials over {len(keys)} keys and their scores. The table of trials below has all values."
    return draw_parallel(axes, lines, note)


def _title(trial: Mapping[str, Any], keys: Sequence[str]) -> str:
    reached = f"{trial['objective']:.4f}" if trial["objective"] is not None else "no score"
    collapsed = ", collapsed" if trial["warnings"] else ""
    values = ", ".join(f"{short(key)} {_value(trial['values'][key])}" for key in keys)
    return f"trial {trial['trial']} ({trial['state']}{collapsed}): {reached}; {values}"


def _progress(found: Found) -> Markup:
    """Objectives in the order in which trials ended, and the best so far."""
    ended = sorted((t for t in found["trials"] if t["state"] == "done"), key=lambda t: t["finished"])
    values: list[float] = [t["objective"] for t in ended]
    best: list[float] = []
    for value in values:
        best.append(max(value, best[-1]) if best else value)
    x = list(range(1, len(values) + 1))
    series = [Series("a finished trial", x, values, dots=True), Series("best so far", x, best)]
    name = NAMES[found["objective"]]
    note = f"The best of {len(values)} finished trials was the {_ordinal(values.index(max(values)) + 1)} to finish."
    chart = Chart(title=f"{name} in the order in which trials ended", x_label="finished trials", y_label=name,
                  series=series, note=note)  # fmt: skip
    return draw(chart)


def _ordinal(n: int) -> str:
    ending = "th" if n % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(n % 10, "th")
    return f"{n}{ending}"


def _scatters(found: Found) -> list[Markup]:
    """The label-free score against what labels say; none without labels."""
    figures = []
    for name, sentence in zip(found["correlations"], sentences(found)):
        both = [t["numbers"] for t in found["trials"] if t["state"] == "done"]
        both = [numbers for numbers in both if SCORE in numbers and name in numbers]
        what = NAMES.get(name, name)
        x, y = [numbers[SCORE] for numbers in both], [100 * numbers[name] for numbers in both]
        chart = Chart(title=f"Label-free score and {what}", x_label="label-free score", y_label=f"{what} %",
                      series=[Series(what, x, y, dots=True)], note=sentence)  # fmt: skip
        figures.append(draw(chart))
    return figures


def _images(validations: Mapping[int, Validation], palette: Palette) -> list[dict[str, Any]]:
    """For each image: it, its label, and what each trial made of it."""
    images: dict[str, list[dict[str, Any]]] = {}
    for trial, validation in validations.items():
        for panel in validation.panels:
            shown = images.setdefault(panel.name, [])
            for layer in panel_layers(panel, validation.matchings, palette):
                given = layer.key in ("image", "label")
                if layer.key == "linear" or (given and any(other["title"] == layer.title for other in shown)):
                    continue
                named = layer.title if given else f"trial {trial}"
                shown.append({"title": named, "source": _uri(layer.painted(), photo=layer.key == "image")})
    return [{"name": name, "layers": layers} for name, layers in images.items()]


def _uri(pixels: Pixels, *, photo: bool) -> str:
    side, held = min(SIDE, pixels.shape[0]), io.BytesIO()
    how = Image.Resampling.BILINEAR if photo else Image.Resampling.NEAREST
    image = Image.fromarray(pixels).resize((side, side), how)
    image.save(held, format="WEBP", **({"quality": 80} if photo else {"lossless": True}))
    return "data:image/webp;base64," + base64.b64encode(held.getvalue()).decode()
