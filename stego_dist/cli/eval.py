"""`stego-dist eval RUN`: accuracy and mIoU of clusters and linear probe, with pictures."""

from __future__ import annotations

import argparse
import json
import re
from typing import Any

OVERRIDE = re.compile(r"\w+(\.\w+)*=")
"""What is no name of a baseline, though it stands behind --baseline."""


def add_parser(verbs: Any) -> None:
    """Add the verb."""
    parser = verbs.add_parser(
        "eval",
        help="evaluate a trained run",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=(
            "Writes RUN/results.json, RUN/panels/*.png and RUN/report.html.\n\n"
            "examples:\n"
            "  stego-dist eval runs/camvid11_vitti16\n"
            "  stego-dist eval RUN eval.crf=both eval.resolution=320\n"
            "  stego-dist eval RUN --baseline               raw-feature k-means beside it\n"
            "  stego-dist eval RUN --baseline raw pca random dino-vits8 picie:FILE mocov2-resnet50:FILE timm:ID@FILE\n"
            "      each with k-means, and both probes trained on its features as the run's own are\n"
            "  accelerate launch --config_file launchers/accelerate/gpus.yaml -m stego_dist eval RUN"
        ),
    )
    parser.add_argument("run_dir", metavar="RUN", help="folder of a trained run")
    parser.add_argument("overrides", nargs="*", metavar="eval.key=value", help="settings that differ from the run's")
    parser.add_argument(
        "--baseline", nargs="*", metavar="NAME",
        help="also k-means over the raw features; or, by name, frozen features with clusters and probes: raw, pca, "
        "random-projection (to the code's width), random, dino-vits8, dino-vitb8, resnet50, mocov2-resnet50:FILE, "
        "picie:FILE, timm:ID[@WEIGHTS]; exit code 1 when one that was named can't be had",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print results.json instead of the table")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Evaluate on all launched ranks; the main process writes and prints."""
    from pathlib import Path

    from stego_dist.config import load_config
    from stego_dist.engine.results import evaluate_run
    from stego_dist.errors import UserError
    from stego_dist.report.page import write_page
    from stego_dist.report.pictures import write_pictures
    from stego_dist.report.tables import print_results
    from stego_dist.rundir import RunDir

    run_dir = RunDir(Path(args.run_dir))
    if not run_dir.config.is_file():
        raise UserError(f"{run_dir.root} is no run: it has no config.yaml; train one with `stego-dist train CONFIG`")
    words = args.baseline or []
    overrides = [word for word in words if OVERRIDE.match(word)]
    config = load_config(run_dir.config, args.overrides + overrides)
    names = None if args.baseline is None else [word for word in words if word not in overrides]
    evaluation = evaluate_run(config, run_dir, baselines=names)
    if evaluation is None:
        return 0
    write_pictures(evaluation, config, run_dir)
    write_page(run_dir)
    if args.json:
        print(json.dumps(evaluation.results, indent=2))
    else:
        print_results(evaluation.results, run_dir)
    return 1 if evaluation.results.get("unavailable_baselines") else 0
