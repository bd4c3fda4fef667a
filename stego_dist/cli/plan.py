"""`stego-dist plan CONFIG --images N`: bytes, hours and memory of every stage, before anything is begun."""

from __future__ import annotations

import argparse
import json
import os
from typing import Any

from stego_dist.cli.common import add_config, config_of

ROWS = (
    ("shards", "seconds", "building shards"),
    ("shards", "bytes", "  disk"),
    ("embedding", "seconds", "embedding"),
    ("embedding", "bytes", "  disk (descriptors)"),
    ("embedding", "memory_per_worker", "  worker's memory"),
    ("bank", "seconds", "bank, more"),
    ("bank", "bytes", "  disk"),
    ("knn exact", "seconds", "exact search"),
    ("knn exact", "memory_per_worker", "  worker's memory"),
    ("knn ivf", "seconds", "inverted file (IVF)"),
    ("knn ivf", "memory_per_worker", "  worker's memory"),
    ("knn exact", "bytes", "neighbour table"),
    ("training online", "seconds", "training online"),
    ("training online", "memory_per_worker", "  worker's memory"),
    ("training bank", "seconds", "training from the bank"),
    ("training bank", "memory_per_worker", "  worker's memory"),
    ("evaluation", "seconds", "evaluating 1,000 images"),
    ("evaluation bank", "seconds", "keeping them for it"),
    ("evaluation bank", "bytes", "  disk"),
)


def add_parser(verbs: Any) -> None:
    """Add the verb."""
    parser = verbs.add_parser(
        "plan",
        help="estimate bytes, hours and memory at a number of images",
        epilog=(
            "Rates are measured here in some seconds, on the samples of the configuration's shard set where there is\n"
            "one; what is given by --rate is not measured. A worker is a GPU, or a CPU core where there is none.\n\n"
            "examples:\n"
            "  stego-dist plan configs/folder.yaml --images 1e5,1e6,1e9 --workers 64\n"
            "  stego-dist plan CONFIG --images 1e8 --crops five --rate embed=1200 --rate memory=64e9 --json"
        ),
    )
    add_config(parser)
    parser.add_argument("--images", action="append", required=True, metavar="N", help="source images, e.g. 1e5,1e6")
    parser.add_argument("--workers", type=_count, metavar="W", help="workers of every job; default: this machine's")
    parser.add_argument(
        "--crops", choices=("none", "five"), help="crops of an image; default: the shard set's, or none"
    )
    parser.add_argument(
        "--rate", action="append", default=[], metavar="NAME=VALUE", help="a figure that is known; --json names all"
    )
    parser.add_argument("--json", action="store_true", help="all numbers, in bytes and seconds")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Measure what is not given, estimate, print."""
    config = config_of(args)
    images, given = parse_images(args.images), parse_rates(args.rate)
    import torch

    from stego_dist.data.crops import Crops
    from stego_dist.jobs.plan import as_json, estimate
    from stego_dist.jobs.probes import measure_config, open_samples

    samples = open_samples(config)
    known = samples.shard_set.num_classes if samples else None
    crops: Crops = args.crops or (samples.shard_set.manifest.options["crops"] if samples else "none")
    clusters = config.clusters.count or known or 27
    facts, figures, origins = measure_config(config, samples, crops, clusters, given)
    workers = args.workers or config.features.workers or torch.cuda.device_count() or os.cpu_count() or 1
    sizes = [estimate(n, facts, figures, workers) for n in images]
    found = as_json(figures, origins, facts, sizes)
    if args.json:
        print(json.dumps(found, indent=2))
    else:
        _print(found)
    return 0


def _count(text: str) -> int:
    if (value := int(text)) < 1:
        raise ValueError  # argparse names the option and the text
    return value


def parse_images(texts: list[str]) -> list[int]:
    """Numbers of images from `--images 1e5,1e6 --images 200`. Raises ConfigError naming what is none."""
    from stego_dist.errors import ConfigError

    numbers = []
    for text in ",".join(texts).split(","):
        try:
            value = float(text)
        except ValueError:
            value = 0.0
        if not 1 <= value <= 1e12:
            raise ConfigError(f"--images: {text!r} is no number of images; write for instance 250000 or 1e5,1e6,1e9")
        numbers.append(round(value))
    return numbers


def parse_rates(texts: list[str]) -> dict[str, float]:
    """Figures from `--rate NAME=VALUE`. Raises ConfigError naming unknown names and what is no positive number."""
    from dataclasses import fields

    from stego_dist.errors import ConfigError
    from stego_dist.jobs.plan import Figures

    names, rates = [field.name for field in fields(Figures)], {}
    for text in texts:
        name, _, value = text.partition("=")
        if name not in names:
            raise ConfigError(f"--rate: there is no figure {name!r}; there are {', '.join(names)}")
        try:
            rates[name] = float(value)
        except ValueError:
            rates[name] = -1.0
        if not 0 < rates[name] < float("inf") and not (name == "knn_query_seconds" and rates[name] == 0):
            raise ConfigError(f"--rate: {name}={value!r} is not a positive number")
    return rates


def _print(found: dict[str, Any]) -> None:
    """The table, what `auto` takes, what binds, and what it was computed from."""
    from rich.table import Table

    from stego_dist import console
    from stego_dist.console import duration, size

    sizes, facts = found["sizes"], found["facts"]
    table = Table(title=f"{sizes[0]['workers']} worker(s), {facts['crops']} crop(s) an image")
    table.add_column("images", no_wrap=True)
    for plan in sizes:
        table.add_column(f"{plan['images']:,}", justify="right")
    for stage, value, title in ROWS:
        show = duration if value == "seconds" else size
        table.add_row(title, *(show(plan["stages"][stage][value]) for plan in sizes))
    table.add_section()
    table.add_row("search taken", *(plan["knn"]["method"] for plan in sizes))
    table.add_row("all, one run", *(duration(plan["total"]["seconds"]) for plan in sizes), style="bold")
    table.add_row("  disk", *(size(plan["total"]["bytes"]) for plan in sizes), style="bold")
    console.out.print(table)
    for plan in sizes:
        for note in (f"{plan['knn']['method']} search: {plan['knn']['why']}", *plan["notes"]):
            console.out.print(f"{plan['images']:,} images: {note}.", soft_wrap=True, highlight=False)
    shown = (f"{name} {entry['value']:.3g} ({entry['origin']})" for name, entry in found["figures"].items())
    console.out.print("from " + ", ".join(shown), soft_wrap=True, highlight=False, style="dim")
