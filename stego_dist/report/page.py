"""RUN/report.html: one self-contained file, no network; made from results.json and the panels."""

from __future__ import annotations

import base64
import json
from pathlib import Path

from jinja2 import Environment, PackageLoader, select_autoescape

from stego_dist.report.tables import main_rows, percent, readable, selection
from stego_dist.rundir import RunDir, atomic_path, read_json, read_metrics


def write_page(run: RunDir) -> Path:
    """Write the report of an evaluated run; returns its path. Raises UserError when it was not evaluated."""
    results = read_json(run.results, "the run's results", f"Evaluate it first: stego-dist eval {run.root}")
    provenance = read_json(run.provenance, "the run's provenance", "Train the run again.")
    environment = Environment(
        loader=PackageLoader("stego_dist.report"),
        autoescape=select_autoescape(default=True, default_for_string=True),
    )
    environment.filters |= {"percent": percent, "readable": readable}
    panels = [(path.stem, base64.b64encode(path.read_bytes()).decode()) for path in sorted(run.panels.glob("*.png"))]
    html = environment.get_template("report.html.j2").render(
        results=results,
        rows=main_rows(results),
        selection=selection(results),
        panels=panels,
        config=run.config.read_text("utf-8") if run.config.exists() else "config.yaml is missing",
        provenance=json.dumps(provenance, indent=2),
        loss=_loss_curve(run.metrics),
    )
    path = run.root / "report.html"
    with atomic_path(path) as tmp:
        tmp.write_text(html, "utf-8")
    return path


def _loss_curve(metrics: Path) -> dict[str, str] | None:
    """The correspondence loss over steps as the points of an SVG polyline in a 600×160 box."""
    lines = read_metrics(metrics)
    series = [
        (line["step"], line["loss/correspondence"]) for line in lines if line.get("loss/correspondence") is not None
    ]
    if len(series) < 2:
        return None
    low, high = min(v for _, v in series), max(v for _, v in series)
    first, last = series[0][0], series[-1][0]
    points = [
        f"{600 * (step - first) / max(1, last - first):.1f},{155 - 150 * (value - low) / max(high - low, 1e-12):.1f}"
        for step, value in series
    ]
    return {
        "points": " ".join(points),
        "low": f"{low:.4f}",
        "high": f"{high:.4f}",
        "first": first,
        "last": last,
    }
