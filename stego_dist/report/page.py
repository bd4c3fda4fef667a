"""RUN/report.html: one self-contained file, no network; made from results.json and the pictures beside it.

Nothing is computed here: every number is results.json's, or its share or mean. Pictures are embedded as data: URIs, of
all together at most BUDGET bytes; what comes after that is left out, and the page says so.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, select_autoescape
from PIL import Image

from stego_dist.inference.names import Names
from stego_dist.report.figures import count_figure, histograms, precision_recall_figures, training_figures
from stego_dist.report.named import given_names, in_colours_of, legend_with, sheet_titles
from stego_dist.report.pictures import layers_of
from stego_dist.report.published import PUBLISHED
from stego_dist.report.summary import cards, confusion_tables, facts
from stego_dist.report.tables import USE, main_rows, percent, readable, use_rows
from stego_dist.rundir import RunDir, atomic_path, read_json

BUDGET = 16_000_000
"""Bytes of embedded pictures, as text."""


def write_page(run: RunDir) -> Path:
    """Write the report of an evaluated run; returns its path. Raises UserError when it was not evaluated."""
    remedy = f"Evaluate it first: stego-dist eval {run.root}"
    results = read_json(run.results, "the run's results", remedy)
    provenance = read_json(run.provenance, "the run's provenance", "Train the run again.")
    names = given_names(run, results["headline_clusters"])
    pictures = _Pictures(layers_of(run), remedy, names)
    legend = pictures.found["legend"]
    html = (
        environment()
        .get_template("report.html.j2")
        .render(
            results=results,
            cards=cards(results),
            facts=facts(results, provenance),
            rows=main_rows(results),
            use_rows=use_rows(results),
            use=USE,
            published=results["dataset"] in PUBLISHED,
            matrices=confusion_tables(results),
            histograms=histograms(results),
            precision_recall=precision_recall_figures(results),
            training=training_figures(results),
            legend=legend_with(legend, names, labelled=results["labelled"]) if names else legend,
            panels=pictures.panels(),
            layers=pictures.kinds,
            clusters=sheet_titles(pictures.clusters(results), names),
            named=names is not None,
            counts=count_figure(results),
            neighbours=pictures.neighbours(results),
            left_out=pictures.left_out,
            budget=BUDGET,
            config=run.config.read_text("utf-8") if run.config.exists() else "config.yaml is missing",
            provenance=json.dumps(provenance, indent=2),
        )
    )
    path = run.root / "report.html"
    with atomic_path(path) as tmp:
        tmp.write_text(html, "utf-8")
    return path


def environment() -> Environment:
    """The templates; what they are given is escaped."""
    templates = Environment(
        loader=PackageLoader("stego_dist.report"),
        autoescape=select_autoescape(default=True, default_for_string=True),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters |= {"percent": percent, "readable": readable}
    return templates


class _Pictures:
    """Reads what report/pictures.py wrote, until BUDGET is spent."""

    def __init__(self, folder: Path, remedy: str, names: Names | None) -> None:
        self.folder, self.names, self.left, self.left_out = folder, names, BUDGET, 0
        self.found: dict[str, Any] = {"legend": [], "panels": [], "clusters": [], "neighbours": {}}
        if folder.exists():
            self.found |= read_json(folder / "pictures.json", "the list of pictures", remedy)
        self.kinds: dict[str, str] = {}
        """Layers that the panels have: key → title."""

    def panels(self) -> list[dict[str, Any]]:
        """The panels with their layers' pictures."""
        shown = []
        for panel in self.found["panels"]:
            named = [layer["file"] for layer in panel["layers"] if layer.get("headline")]
            pictures = self._read([layer["file"] for layer in panel["layers"]], named)
            if pictures is not None:
                layers = [layer | picture for layer, picture in zip(panel["layers"], pictures)]
                shown.append(panel | {"layers": layers})
                self.kinds |= {layer["key"]: layer["title"] for layer in layers}
        return shown

    def clusters(self, results: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Clusters with their share, stability and examples; none with labels."""
        found = results.get("cluster_examples")
        if not found:
            return []
        files = {sheet["cluster"]: sheet["files"] for sheet in self.found["clusters"]}
        shares, iou = results["cluster_shares"][found["clusters"]], found["stability"]["iou"]
        colours = [entry["colour"] for entry in self.found["legend"]]
        shown = []
        for sheet in found["examples"]:
            cluster = sheet["cluster"]
            pictures = self._read(files.get(cluster, [])) or []
            shown.append(
                {
                    "cluster": cluster,
                    "colour": colours[cluster] if colours else "#888888",
                    "share": shares[cluster],
                    "iou": iou[cluster],
                    "images": [image | picture for image, picture in zip(sheet["images"], pictures)],
                }
            )
        return shown

    def neighbours(self, results: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Training crops with their neighbours, in rows; without pictures where they could not be read."""
        rows = []
        for row in results.get("neighbours", []):
            crops = [row, *row["neighbours"]]
            files = [self.found["neighbours"].get(str(crop["id"])) for crop in crops]
            pictures = self._read([file for file in files if file]) if all(files) else None
            shown = [crop | (pictures[n] if pictures else {"source": None}) for n, crop in enumerate(crops)]
            rows.append({"anchor": shown[0], "others": shown[1:]})
        return rows

    def _read(self, files: Sequence[str], named: Sequence[str] = ()) -> list[dict[str, Any]] | None:
        """Sources (data: URIs), widths and heights of files that belong together; `named`: those that names colour.

        None when they no longer fit or one is gone.
        """
        try:
            found = [_embedded(self.folder / file, self.names if file in named else None) for file in files]
        except OSError:
            found = []
        size = sum(len(picture["source"]) for picture in found)
        if len(found) < len(files) or size > self.left:
            self.left_out += len(files)
            return None
        self.left -= size
        return found


def _embedded(path: Path, names: Names | None = None) -> dict[str, Any]:
    data = path.read_bytes()
    if names is not None:
        data = in_colours_of(data, names)
    with Image.open(io.BytesIO(data)) as image:
        width, height = image.size
    kind = path.suffix.removeprefix(".")
    return {"source": f"data:image/{kind};base64,{base64.b64encode(data).decode()}", "width": width, "height": height}
