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
        epilog=(
            "A job that was killed continues where it stopped when it is started again.\n\n"
            "examples:\n"
            "  stego-dist features configs/camvid11_vitti16.yaml\n"
            "  stego-dist features CONFIG features.precision=bf16 features.gpus_per_worker=0.5\n"
            "  RAY_ADDRESS=10.0.0.1:6379 stego-dist features CONFIG    on a running Ray cluster"
        ),
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
