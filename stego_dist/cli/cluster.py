"""`stego-dist cluster RUN`: another number of clusters for a trained run, without training its head again."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any


def add_parser(verbs: Any) -> None:
    """Add the verb."""
    parser = verbs.add_parser(
        "cluster",
        help="find clusters anew for a trained run",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=(
            "The head stays; k-means is done anew, and the learned cluster probe trained anew on frozen codes.\n"
            "Evaluate the run afterwards. `auto` takes the largest number of clusters that stand apart nearly as\n"
            "well as the best, and shows the curve; no labels enter.\n\n"
            "examples:\n"
            "  stego-dist cluster runs/mine --count auto\n"
            "  stego-dist cluster runs/mine --count 30 clusters.restarts=20 && stego-dist eval runs/mine"
        ),
    )
    parser.add_argument("run_dir", metavar="RUN", type=Path, help="folder of a trained run")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="settings that differ from the run's")
    parser.add_argument("--count", default="auto", metavar="K", help="number of clusters, or auto (default)")
    parser.add_argument("--json", action="store_true", help="print how they were found as JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Cluster on all launched ranks; the main process writes and prints."""
    from stego_dist.config import load_config
    from stego_dist.console import is_main_process
    from stego_dist.engine.recluster import recluster
    from stego_dist.engine.results import evaluating
    from stego_dist.rundir import RunDir

    run_dir, count = RunDir.existing(args.run_dir), parse_count(args.count)
    config = load_config(run_dir.config, args.overrides)
    with evaluating(config) as accelerator:
        found = recluster(config, run_dir, accelerator, count)
    if is_main_process():
        if args.json:
            print(json.dumps(found, indent=2))
        else:
            _print(found, run_dir.root)
    return 0


def parse_count(text: str) -> int | None:
    """A number of clusters, None for "auto". Raises ConfigError."""
    from stego_dist.errors import ConfigError

    if text == "auto":
        return None
    if not text.isdecimal() or int(text) < 2:
        raise ConfigError(f"the number of clusters is auto or at least 2, not {text!r}")
    return int(text)


def _print(found: dict[str, Any], root: Path) -> None:
    from rich.table import Table

    from stego_dist import console

    if found["count"]:
        chosen = found["count"]["chosen"]
        table = Table(
            "clusters", "margin", "label-free score", "agreement", title="numbers of clusters that were tried"
        )
        for each in found["count"]["tried"]:
            table.add_row(
                f"{each['count']}{' ←' if each['count'] == chosen else ''}",
                f"{each['margin']:.3f}", f"{each['score']:.3f} ± {each['error']:.3f}", f"{each['agreement']:.3f}",
                style="bold" if each["count"] == chosen else None,
            )  # fmt: skip
        console.out.print(table)
    score = found["label_free"]
    console.out.print(
        f"{found['clusters']} clusters, label-free score {score['label_free']:.3f} ± {score['label_free_error']:.3f}; "
        f"next: stego-dist eval {root}",
        soft_wrap=True, markup=False, highlight=False,
    )  # fmt: skip
