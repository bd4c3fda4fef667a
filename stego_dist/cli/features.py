"""`stego-dist features CONFIG`: descriptors and the bank of dense features."""

from __future__ import annotations

import argparse
from typing import Any

from stego_dist.cli.common import add_config, config_of


def add_parser(verbs: Any) -> None:
    """Add the verb."""
    parser = verbs.add_parser(
        "features",
        help="compute the bank of backbone features once (optional)",
        epilog="example: stego-dist features configs/camvid11_vitti16.yaml",
    )
    add_config(parser)
    parser.add_argument("--overwrite", action="store_true", help="compute again what was made from something else")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Write the feature store with the bank."""
    config = config_of(args)
    from stego_dist.jobs.embed import embed

    embed(config, bank=True, overwrite=args.overwrite)
    return 0
