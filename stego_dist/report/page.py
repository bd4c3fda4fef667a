"""RUN/report.html: one self-contained file, no network; made from results.json and the pictures beside it.

Nothing is computed here: every number is results.json's, or its share or mean. Pictures are embedded as data: URIs, of
all together at most BUDGET bytes; what comes after that is left out, and the page says so.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, select_autoescape

from stego_dist.report.figures import histograms, precision_recall_figures, training_figures
from stego_dist.report.pictures import layers_of
from stego_dist.report.published import PUBLISHED
from stego_dist.report.summary import cards, confusion_tables, facts
from stego_dist.report.tables import main_rows, percent, readable
from stego_dist.rundir import RunDir, atomic_path, read_json

BUDGET = 16_000_000
"""Bytes of embedded pictures, as text."""


def write_page(run: RunDir) -> Path:
    """Write the report of an evaluated run; returns its path. Raises UserError when it was not evaluated."""
    remedy = f"Evaluate it first: stego-dist eval {run.root}"
    results = read_json(run.results, "the run's results", remedy)
    provenance = read_json(run.provenance, "the run's provenance", "Train the run again.")
    pictures = _Pictures(layers_of(run), remedy)
    html = (
        environment()
        .get_template("report.html.j2")
        .render(
            results=results,
            cards=cards(results),
            facts=facts(results, provenance),
            rows=main_rows(results),
            published=results["dataset"] in PUBLISHED,
            matrices=confusion_tables(results),
            histograms=histograms(results),
            precision_recall=precision_recall_figures(results),
            training=training_figures(results),
            legend=pictures.found["legend"],
            panels=pictures.panels(),
            layers=pictures.kinds,
            clusters=pictures.clusters(results),
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

    def __init__(self, folder: Path, remedy: str) -> None:
        self.folder, self.left, self.left_out = folder, BUDGET, 0
        self.found: dict[str, Any] = {"legend": [], "panels": [], "clusters": [], "neighbours": {}}
        if folder.exists():
            self.found |= read_json(folder / "pictures.json", "the list of pictures", remedy)
        self.kinds: dict[str, str] = {}
        """Layers that the panels have: key → title."""

    def panels(self) -> list[dict[str, Any]]:
        """The panels with their layers' pictures."""
        shown = []
        for panel in self.found["panels"]:
            sources = self._sources([layer["file"] for layer in panel["layers"]])
            if sources is not None:
                layers = [layer | {"source": source} for layer, source in zip(panel["layers"], sources)]
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
            sources = self._sources(files.get(cluster, [])) or []
            shown.append(
                {
                    "cluster": cluster,
                    "colour": colours[cluster] if colours else "#888888",
                    "share": shares[cluster],
                    "iou": iou[cluster],
                    "images": [image | {"source": source} for image, source in zip(sheet["images"], sources)],
                }
            )
        return shown

    def neighbours(self, results: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Training crops with their neighbours, in rows; without pictures where they could not be read."""
        rows = []
        for row in results.get("neighbours", []):
            crops = [row, *row["neighbours"]]
            files = [self.found["neighbours"].get(str(crop["id"])) for crop in crops]
            sources = self._sources([file for file in files if file]) if all(files) else None
            shown = [crop | {"source": sources[n] if sources else None} for n, crop in enumerate(crops)]
            rows.append({"anchor": shown[0], "others": shown[1:]})
        return rows

    def _sources(self, files: Sequence[str]) -> list[str] | None:
        """data: URIs of files that belong together, or None when they no longer fit or one is gone."""
        paths = [self.folder / file for file in files]
        if not all(path.is_file() for path in paths):
            self.left_out += len(paths)
            return None
        sources = ["data:image/webp;base64," + base64.b64encode(path.read_bytes()).decode() for path in paths]
        size = sum(map(len, sources))
        if size > self.left:
            self.left_out += len(paths)
            return None
        self.left -= size
        return sources
