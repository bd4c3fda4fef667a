"""`stego-dist show CONFIG`: the resolved configuration."""

from __future__ import annotations

import argparse
import json
from typing import Any

from stego_dist.cli.common import add_config, config_of


def add_parser(verbs: Any) -> None:
    """Add the verb."""
    parser = verbs.add_parser(
        "show",
        help="print the resolved configuration",
        epilog="example: stego-dist show configs/camvid11_vitti16.yaml train.steps=200",
    )
    add_config(parser)
    parser.add_argument("--json", action="store_true", help="as JSON instead of YAML")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the tree; errors in it are reported all at once, exit code 2."""
    from stego_dist.config import dump_config

    config = config_of(args)
    print(json.dumps(config.model_dump(mode="json"), indent=2) if args.json else dump_config(config), end="")
    return 0
