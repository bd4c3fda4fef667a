"""`stego-dist report RUN`: print the results of an evaluated run again and rewrite its page."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def add_parser(verbs: Any) -> None:
    """Add the verb."""
    parser = verbs.add_parser(
        "report",
        help="print an evaluated run's results and write RUN/report.html",
        epilog="example: stego-dist report runs/camvid11_vitti16",
    )
    parser.add_argument("run_dir", metavar="RUN", help="folder of an evaluated run")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Tables on stdout, the page beside results.json."""
    from stego_dist.report.page import write_page
    from stego_dist.report.tables import print_results
    from stego_dist.rundir import RunDir, read_json

    run_dir = RunDir(Path(args.run_dir))
    write_page(run_dir)
    print_results(read_json(run_dir.results, "the run's results", "Evaluate it first."), run_dir)
    return 0
