"""`stego-dist train CONFIG`: one process; `accelerate launch -m stego_dist train CONFIG`: many."""

from __future__ import annotations

import argparse
from typing import Any

from stego_dist.cli.common import add_config, config_of


def add_parser(verbs: Any) -> None:
    """Add the verb."""
    parser = verbs.add_parser(
        "train",
        help="train head and probes",
        epilog=(
            "examples:\n"
            "  stego-dist train configs/camvid11_vitti16.yaml\n"
            "  accelerate launch --config_file launchers/accelerate/gpus.yaml -m stego_dist train CONFIG\n"
            "  stego-dist train CONFIG --resume        continue after a stop (exit code 75) or a crash\n"
            "  stego-dist train CONFIG train.steps=200 run_dir=runs/short"
        ),
    )
    add_config(parser)
    parser.add_argument("--resume", action="store_true", help="continue the run if it was begun, else begin it")
    parser.add_argument("--overwrite", action="store_true", help="begin anew where a run already lies")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Train; 0 done, 75 saved and to be resumed."""
    config = config_of(args)
    from stego_dist.engine.train import train

    return train(config, resume=args.resume, overwrite=args.overwrite)
