"""`stego-dist quickstart`: everything on an embedded example, in minutes on two cores."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any


def add_parser(verbs: Any) -> None:
    """Add the verb."""
    parser = verbs.add_parser(
        "quickstart",
        help="run the whole path on drawn landscapes, no download",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="examples:\n  stego-dist quickstart\n  stego-dist quickstart --seeds 0 1 2 --out quickstart_out",
    )
    parser.add_argument("--out", default="quickstart_out", metavar="DIR", help="where everything goes")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], metavar="N", help="train once with each seed")
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="override settings of the config")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run it."""
    from stego_dist.cli import main
    from stego_dist.quickstart.run import quickstart

    summary = quickstart(Path(args.out), main, seeds=args.seeds, overrides=args.overrides)
    if args.json:
        print(json.dumps(summary, indent=2))
    return 0
