"""MODEL_CARD.md: what the model is made of, what was measured, and what was not."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import timm
import yaml

from stego_dist import __version__
from stego_dist.data.manifest import ShardSet
from stego_dist.errors import UserError
from stego_dist.export.about import Exported
from stego_dist.export.parity import Case
from stego_dist.inference.modelfile import without_places
from stego_dist.inference.names import hex_colour
from stego_dist.rundir import read_json

READOUTS = {
    "kmeans": "k-means over training codes, without labels",
    "learned": "the learned cluster probe, without labels",
    "linear": "a linear probe, trained with labels on frozen codes",
}
MEASURES = {"kmeans": "k-means over codes", "learned": "learned cluster probe", "linear": "linear probe (labels)"}


def model_card(what: Exported, cases: Sequence[Case], runtime: str, usage: str) -> str:
    """The card, in Markdown. runtime: what the file was checked with; usage: how it is run."""
    results = _results(what)
    parts = {
        f"{what.opened.config.name}: unsupervised segmentation": _head(what),
        "Use": usage,
        "Classes": _classes(what),
        "Data": _data(what, results),
        "Backbone": _backbone(what),
        "Training": _training(what, results),
        "Measured": _measured(what, results),
        "This file against Python": _parity(cases, runtime),
        "What it was not tested on": _untested(what, results),
        "Configuration": _configuration(what),
    }
    titles = list(parts)
    return "\n\n".join(f"{'#' if title == titles[0] else '##'} {title}\n\n{parts[title]}" for title in titles) + "\n"


def _head(what: Exported) -> str:
    sizes = ", ".join(f"{h}×{w}" for h, w in what.sizes)
    seen = "at their own size" if what.scale == "native" else f"with a shorter side of {what.scale} pixels"
    return "\n".join(
        [
            f"STEGO (Hamilton et al., ICLR 2022) by stego_dist {__version__}: dense features of a frozen backbone, a "
            "small head that was trained without labels, and a readout of its codes.",
            "",
            f"- format: {what.format} ({', '.join(file for file, _ in what.files)}), float32",
            f"- readout: {what.readout}, {READOUTS[what.readout]}",
            f"- images: RGB, uint8, {seen} ({what.opened.config.data.image_resize} resizing); "
            + (f"only of {sizes} pixels (height×width)" if sizes else f"any size from {what.stride + 1} pixels a side"),
            f"- flip average: {'yes' if what.scorer.flip else 'no'}; normalisation is inside; no CRF",
        ]
    )


def _classes(what: Exported) -> str:
    lines = ["| id | name | colour | clusters |", "|---|---|---|---|"]
    for i, entry in enumerate(what.names.classes):
        clusters = ", ".join(str(k) for k, its in enumerate(what.names.of_cluster) if its == i)
        name = entry.name.replace("|", "\\|").replace("<", "&lt;")
        lines.append(f"| {i} | {name} | {hex_colour(entry.colour)} | {clusters} |")
    if what.opened.run.names.exists() and what.readout == what.opened.config.eval.clusters:
        origin = "Names were given by people (names.yaml)."
    elif what.readout == "linear":
        origin = "Names are those of the labels that the probe was trained with."
    elif what.opened.file is not None:
        origin = "Names are those that the model file came with."
    elif all(entry.name.startswith("cluster ") for entry in what.names.classes):
        origin = "Nobody named the clusters."
    else:
        origin = "Names are those of the classes that an evaluation matched the clusters to, with labels."
    return "\n".join([*lines, "", origin])


def _data(what: Exported, results: dict[str, Any]) -> str:
    data = what.opened.config.data
    lines = [f"- shard set: {Path(data.shards).name}, split {data.train_split} for training"]
    try:
        shard_set = ShardSet.open(data.shards, data.storage)
        card = shard_set.manifest.card
        lines[0] += f", {sum(s.samples for s in shard_set.split(data.train_split).shards):,} samples"
        lines.append(f"- data set: {card.title}; terms: {card.licence or 'unknown'}")
    except UserError:
        lines.append(f"- data set: {results.get('dataset', 'unknown')}; terms: unknown (the shards were not at hand)")
    return "\n".join(lines)


def _backbone(what: Exported) -> str:
    backbone = what.opened.config.backbone
    lines = [f"- network: timm {timm.__version__}, `{backbone.name}`, frozen"]
    own = timm.get_pretrained_cfg(backbone.name)
    terms = getattr(own, "license", None) or "unknown"
    source = getattr(own, "origin_url", None) or getattr(own, "url", None) or getattr(own, "hf_hub_id", None)
    if backbone.weights == "timm":
        lines += [f"- weights: timm's ({source or 'source unknown'})", f"- licence of the weights: {terms}"]
    elif backbone.weights == "random":
        lines += ["- weights: random, not trained on anything", "- licence of the weights: none needed"]
    else:
        lines += [
            f"- weights: the file {Path(backbone.weights).name}",
            f"- licence of the weights: unknown, because a file does not say where it is from (the weights that timm "
            f"offers under this name: {terms})",
        ]
    lines.append(f"- sha256 over the weights: {what.scorer.backbone.weights_digest()}")
    lines.append("- what the backbone was trained on, and whether with labels, is not known here: see its source")
    return "\n".join(lines)


def _training(what: Exported, results: dict[str, Any]) -> str:
    config, meta = what.opened.config, what.opened.meta
    lines = [f"- steps: {meta.get('step', 'unknown')}, of {config.train.batch_size} images, seed {config.seed}"]
    chosen = meta.get("selected") or {"by": "last", "uses_labels": False}
    how = "of the last step" if chosen["by"] == "last" else f"of step {chosen['step']}, selected by {chosen['by']}"
    lines.append(f"- weights {how}, {'by' if chosen['uses_labels'] else 'without'} labels")
    found = results.get("coefficients")
    for kind, pair in config.loss.pairs.items():
        entry = (found or {}).get(kind, {"weight": pair.weight, "shift": pair.shift})
        origins = {entry.get("weight_from", "configuration"), entry.get("shift_from", "configuration")}
        words = " and ".join(sorted("calibrated without labels" if o == "auto" else o for o in origins))
        lines.append(f"- {kind} pairs: weight {_number(entry['weight'])}, shift {_number(entry['shift'])} ({words})")
    clustering = meta.get("clustering")
    if clustering:
        weight, balance = clustering["feature_weight"], clustering["balance"]
        lines.append(f"- k-means: features count {weight:g} beside codes, density to the power of −{balance:g}")
    return "\n".join(lines)


def _measured(what: Exported, results: dict[str, Any]) -> str:
    if not results:
        return "Nothing: the run was not evaluated before it was exported (`stego-dist eval RUN`)."
    terms = (
        f"Split {results['split']} of {results['dataset']}, {results['images']} images, {results['resolution']} "
        f"pixels, crop {results['crop']}, flip average {'on' if results['flip'] else 'off'}, by the Python path"
    )
    measures = results.get("measures") or {}
    if not measures:
        use = results.get("largest_cluster", {})
        shares = ", ".join(f"{MEASURES.get(k, k)} {100 * v:.1f} %" for k, v in use.items())
        return f"{terms}. There were no labels, so no accuracy is known. Share of the largest cluster: {shares}."
    lines = [f"{terms} (%):", "", "| readout | accuracy | mIoU |", "|---|---|---|"]
    for name, entry in measures.items():
        title = MEASURES.get(name, name) + (" (this file)" if name == what.readout else "")
        lines.append(f"| {title} | {_percent(entry['accuracy'])} | {_percent(entry['miou'])} |")
    lines += ["", "Clusters were matched to classes by labels for these numbers, as the method is evaluated."]
    iou = measures.get(what.readout, {}).get("iou")
    if iou:
        lines += ["", "IoU by class: " + ", ".join(f"{name} {_percent(value)}" for name, value in iou.items()) + "."]
    return "\n".join([*lines, *(f"\nWarning of the evaluation: {w}" for w in results.get("warnings", []))])


def _parity(cases: Sequence[Case], runtime: str) -> str:
    lines = [f"Made-up images, {runtime}, float32 on a CPU:", ""]
    lines += ["| size | images | largest difference of scores | pixels with another label |", "|---|---|---|---|"]
    for case in cases:
        size = f"{case.size[0]}×{case.size[1]}"
        lines.append(f"| {size} | {case.batch} | {case.scores:.2g} | {100 * case.differing:.3g} % |")
    return "\n".join(lines)


def _untested(what: Exported, results: dict[str, Any]) -> str:
    seen = f"split {results['split']} of {results['dataset']}" if results else "no image with a label"
    lines = [
        f"- Measured on {seen} alone: other places, cameras, seasons, sizes and objects were not.",
        "- Clusters are what codes fall into. A class that people care about may be split, merged or missing, and rare "
        "things mostly are.",
        "- No test of fairness between people, or of behaviour under attack, was made. Not for decisions about people, "
        "and not where a wrong pixel does harm.",
        "- The file was run on a CPU in float32: GPUs, other runtimes, float16 and quantised versions were not.",
    ]
    if results and what.scale != results["resolution"]:
        lines.append(f"- The numbers are of {results['resolution']} pixels, this file sees images at {what.scale}.")
    if results and results["flip"] != what.scorer.flip:
        lines.append("- The numbers are with another setting of the flip average than this file has.")
    if what.opened.config.train.precision != "fp32":
        lines.append(f"- It was trained in {what.opened.config.train.precision}; this file computes in float32.")
    return "\n".join(lines)


def _configuration(what: Exported) -> str:
    plain = yaml.safe_dump(without_places(what.opened.config), sort_keys=False, allow_unicode=True)
    return f"```yaml\n{plain}```"


def _results(what: Exported) -> dict[str, Any]:
    if not what.opened.run.results.exists():
        return {}
    found: dict[str, Any] = read_json(what.opened.run.results, "the run's results", "Run `stego-dist eval` again.")
    return found


def _number(value: float | str | None) -> str:
    return "not recorded" if value is None else value if isinstance(value, str) else f"{value:.4g}"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"
