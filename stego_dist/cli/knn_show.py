"""`stego-dist knn show CONFIG|RUN`: what the neighbour table looks like, in numbers and in pictures."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from stego_dist.cli.common import add_config


def add_action(actions: Any) -> None:
    """Add `show` to the verb's actions."""
    parser = actions.add_parser(
        "show",
        help="similarities, hubs and pictures of the neighbour table",
        epilog=(
            "Writes show.json and neighbours.png beside the table.\n\n"
            "examples:\n"
            "  stego-dist knn show configs/camvid11_vitti16.yaml\n"
            "  stego-dist knn show runs/camvid11_vitti16 --out shown"
        ),
    )
    add_config(parser)
    parser.add_argument("--out", type=Path, metavar="DIR", help="write there instead")
    parser.add_argument("--json", action="store_true", help="print show.json instead of tables")
    parser.set_defaults(run=run_show)


def run_show(args: argparse.Namespace) -> int:
    """Numbers first; then the picture, where the shards can be read."""
    from stego_dist.config import load_config
    from stego_dist.report.neighbours import print_statistics, show_table
    from stego_dist.rundir import RunDir

    path = Path(args.config)
    config = load_config(RunDir(path).config if path.is_dir() else path, args.overrides)
    shown = show_table(config, args.out)
    if args.json:
        print(json.dumps(shown, indent=2))
    else:
        print_statistics(shown)
    return 0
