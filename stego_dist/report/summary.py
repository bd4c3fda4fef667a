"""What the report says before its figures: the numbers in large, what the run was made of, confusion in shares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stego_dist.report.tables import percent, readable, selection

MANY = 40
"""Classes from which on only one confusion matrix is shown."""


@dataclass(frozen=True)
class Card:
    """A number in large."""

    value: str
    what: str


@dataclass(frozen=True)
class ConfusionTable:
    """Shares of the pixels of each class, by what they were predicted as."""

    title: str
    predicted: Sequence[str]
    rows: Sequence[tuple[str, int, Sequence[float | None]]]
    """Class, its labelled pixels, and the share predicted as each; None where the class has no pixels."""
    headline: bool


def cards(results: Mapping[str, Any]) -> list[Card]:
    """The headline's scores and the linear probe's; without labels the sizes and stability of the clusters."""
    headline = results["headline_clusters"]
    if results["labelled"]:
        found = []
        for name in (headline, headline + "+crf", "linear", "linear+crf"):
            if name in results["measures"]:
                entry = results["measures"][name]
                value = f"{percent(entry['accuracy'])} / {percent(entry['miou'])}"
                found.append(Card(value, f"{readable(name)}: accuracy / mIoU, %"))
        return found
    shares = results["cluster_shares"][headline]
    found = [
        Card(str(sum(share > 0 for share in shares)), f"of {len(shares)} clusters are used ({readable(headline)})"),
        Card(f"{percent(max(shares))} %", "of all pixels in the largest cluster"),
    ]
    if examples := results.get("cluster_examples"):
        stability = examples["stability"]
        what = f"of positions keep their cluster in the mirrored image ({stability['images']} images)"
        found.append(Card(f"{percent(stability['agreement'])} %", what))
    return found


def facts(results: Mapping[str, Any], provenance: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What the run was made of and how it was evaluated: (term, text)."""
    inputs = provenance.get("inputs", {})
    chosen = results.get("selected") or {"by": "last", "uses_labels": False}
    digest = inputs.get("backbone weights")
    how = [f"{results['resolution']} pixels", "flip-averaged" if results["flip"] else "not flip-averaged"]
    how.append("no CRF" if results["crf"] == "none" else f"with CRF on {results['crf']}")
    known = [
        ("Backbone", results["backbone"]),
        ("Its weights", f"{results['weights']}{f' (sha256 {digest[:16]}…)' if digest else ''}"),
        ("Evaluated on", f"{results['images']:,} images of {results['dataset']}/{results['split']}, {', '.join(how)}"),
        ("Trained", f"{results['step']:,} steps with seed {results['seed']}"),
        ("Shifts of the loss", _coefficients(results, "shift")),
        ("Weights of the loss", _coefficients(results, "weight")),
        ("Weights chosen", selection(dict(results)) or "those of the last step"),
        ("Chosen by labels", "yes" if chosen.get("uses_labels") else "no"),
        ("Headline clusters", readable(results["headline_clusters"])),
        ("k-means clusters", clustering(results)),
        ("Label-free score", label_free(results)),
        ("Shards", str(inputs.get("shards", "unknown"))[:16]),
        ("Code", f"stego_dist {provenance.get('stego_dist', '?')}, revision {provenance.get('code_revision', '?')}"),
        ("Made with", ", ".join(f"{k} {provenance[k]}" for k in ("torch", "timm", "python") if k in provenance)),
        ("Device", str(provenance.get("device", "unknown"))),
    ]
    return [(term, text) for term, text in known if text]


def clustering(results: Mapping[str, Any]) -> str:
    """Which space the run's k-means clusters were found in, in words; "" where that is not known."""
    found = results.get("clustering")
    if not found:
        return ""
    weight = found["feature_weight"]
    text = f"of codes beside features that count {weight:.3g}" if weight else "of codes alone"
    margins = found["margins"]
    apart = f" (apart by {margins['clusters']:.3f}, fewer by {margins['fewer']:.3f})" if margins else ""
    return text + apart


def label_free(results: Mapping[str, Any]) -> str:
    """The label-free score with its error; "" where there is none."""
    found = results.get("label_free")
    return f"{found['label_free']:.4f} ± {found['label_free_error']:.4f}" if found else ""


def _coefficients(results: Mapping[str, Any], what: str) -> str:
    """Those of the three kinds of pairs, with where each comes from: "self 0.505 (auto), …"."""
    entries = results.get("coefficients", {}).items()
    numbers = {kind: "unknown" if entry[what] is None else f"{entry[what]:.4g}" for kind, entry in entries}
    return ", ".join(f"{kind} {numbers[kind]} ({entry[f'{what}_from']})" for kind, entry in entries)


def confusion_tables(results: Mapping[str, Any]) -> list[ConfusionTable]:
    """For every measure, the headline first: rows are classes, columns what was predicted; rows sum to 1.

    With more than MANY classes the headline's alone: a page should not hold a hundred thousand cells.
    """
    if not results["labelled"]:
        return []
    classes, headline = results["classes"], results["headline_clusters"]
    tables = []
    names = sorted(results["measures"], key=lambda name: name != headline)
    for name in names if len(classes) <= MANY else names[:1]:
        counts = results["measures"][name]["confusion"]  # rows are predictions
        predicted = [*classes, *["no class"] * (len(counts) - len(classes))]
        rows = []
        for c, label in enumerate(classes):
            column = [row[c] for row in counts]
            total = sum(column)
            rows.append((label, total, [count / total if total else None for count in column]))
        tables.append(ConfusionTable(readable(name), predicted, rows, name == headline))
    return tables
