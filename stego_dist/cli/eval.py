"""`stego-dist eval RUN`: accuracy and mIoU of clusters and linear probe, with pictures."""

from __future__ import annotations

import argparse
import json
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stego_dist.config import Config
    from stego_dist.engine.evaluate import Evaluation
    from stego_dist.rundir import RunDir

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
            "  stego-dist eval RUN eval.linear=converged eval.cluster_seeds=5\n"
            "  stego-dist eval runs/seed0 runs/seed1 runs/seed2     each, then their mean and spread\n"
            "  accelerate launch --config_file launchers/accelerate/gpus.yaml -m stego_dist eval RUN"
        ),
    )
    parser.add_argument("run_dir", metavar="RUN", help="folder of a trained run")
    parser.add_argument(
        "overrides", nargs="*", metavar="RUN|eval.key=value", help="more runs, and settings that differ from the runs'"
    )
    parser.add_argument(
        "--baseline", nargs="*", metavar="NAME",
        help="also k-means over the raw features; or, by name, frozen features with clusters and probes: raw, pca, "
        "random-projection (to the code's width), random, dino-vits8, dino-vitb8, resnet50, mocov2-resnet50:FILE, "
        "picie:FILE, timm:ID[@WEIGHTS]; exit code 1 when one that was named can't be had",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print results instead of the table")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Evaluate each run on all launched ranks; the main process writes and prints."""
    from pathlib import Path

    from stego_dist.engine.results import evaluate_one, evaluating
    from stego_dist.engine.scoring import spread_over_runs
    from stego_dist.report.tables import print_spread
    from stego_dist.rundir import RunDir

    behind = [word for word in args.baseline or [] if OVERRIDE.match(word)]
    names = None if args.baseline is None else [word for word in args.baseline if word not in behind]
    words = [args.run_dir, *args.overrides]
    runs = [word for word in words if "=" not in word or RunDir(Path(word)).config.is_file()]
    overrides = [word for word in words if word not in runs] + behind
    chosen = [(run_dir, _config(run_dir, overrides)) for run_dir in (RunDir(Path(word)) for word in runs)]
    results = []
    with evaluating(chosen[0][1]) as accelerator:
        for run_dir, config in chosen:
            evaluation = evaluate_one(config, run_dir, accelerator, baselines=names)
            if evaluation is not None:
                _write(evaluation, config, run_dir, table=not args.json)
                results.append(evaluation.results)
    if not results:
        return 0
    code = int(any(found.get("unavailable_baselines") for found in results))
    if len(runs) == 1:
        if args.json:
            print(json.dumps(results[0], indent=2))
        return code
    spread = spread_over_runs(results)
    if args.json:
        print(json.dumps({"runs": results, "spread": spread}, indent=2))
    else:
        print_spread(runs, results, spread)
    return code


def _config(run_dir: RunDir, overrides: list[str]) -> Config:
    """The run's configuration with what differs now."""
    from stego_dist.config import load_config
    from stego_dist.rundir import RunDir

    return load_config(RunDir.existing(run_dir.root).config, overrides)


def _write(evaluation: Evaluation, config: Config, run_dir: RunDir, *, table: bool) -> None:
    """Pictures and page of an evaluated run, and its table."""
    from stego_dist.report.page import write_page
    from stego_dist.report.pictures import write_pictures
    from stego_dist.report.tables import print_results

    write_pictures(evaluation, config, run_dir)
    write_page(run_dir)
    if table:
        print_results(evaluation.results, run_dir)
