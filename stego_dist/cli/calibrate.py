"""`stego-dist calibrate CONFIG`: shifts and weights of the loss from the data's own correspondences, with a picture."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from stego_dist.cli.common import add_config, config_of


def add_parser(verbs: Any) -> None:
    """Add the verb."""
    parser = verbs.add_parser(
        "calibrate",
        help="choose the loss's shifts and weights from the data, without labels",
        epilog=(
            "Draws pairs as training would and shows how their feature correspondences are distributed, the shifts\n"
            "that are chosen from them and the share of pairs that lies above. Training does the same by itself\n"
            "wherever a weight or shift is `auto`, which is the default. Needs the neighbour table (knn build).\n\n"
            "examples:\n"
            "  stego-dist calibrate configs/camvid11_vitti16.yaml\n"
            "  stego-dist calibrate CONFIG loss.preset=cityscapes27 --out shown   beside published shifts\n"
            "  stego-dist calibrate CONFIG loss.calibration_images=1024 --json"
        ),
    )
    add_config(parser)
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="write calibration.json and calibration.svg there, not to features.dir"
    )
    parser.add_argument("--json", action="store_true", help="print calibration.json instead of the table")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Calibrate in one process; nothing is trained."""
    config = config_of(args)
    from stego_dist.engine.calibrate import calibrate_config
    from stego_dist.report.calibration import print_calibration, write_calibration

    shown = write_calibration(calibrate_config(config), config, args.out or Path(config.features.dir))
    if args.json:
        print(json.dumps(shown, indent=2))
    else:
        print_calibration(shown, config, args.config)
    return 0
