"""`stego-dist doctor`: what this machine or allocation offers, what is wrong, and how to mend it."""

from __future__ import annotations

import argparse
import json
from typing import Any


def add_parser(verbs: Any) -> None:
    """Add the verb."""
    parser = verbs.add_parser(
        "doctor",
        help="look at this machine or allocation: what it offers, what is wrong, how to mend it",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=(
            "Sums over two processes and trains a step of a tiny model; under a launcher over all of its processes.\n"
            "Exit code 1 when something is wrong.\n\n"
            "examples:\n"
            "  stego-dist doctor\n"
            "  stego-dist doctor --json\n"
            "  RAY_ADDRESS=10.0.0.1:6379 stego-dist doctor                   looks at that cluster as well\n"
            "  sbatch --nodes=2 --gpus-per-node=4 launchers/slurm/doctor.sbatch   all hosts of an allocation"
        ),
    )
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Look, print on the main process; 1 when something is wrong."""
    from dataclasses import asdict

    from stego_dist import system
    from stego_dist.console import is_main_process
    from stego_dist.engine import selftest
    from stego_dist.jobs.health import ray_health

    parts = (system.machine, system.packages, system.network, system.slurm, selftest.gpus, ray_health)
    findings = [finding for part in parts for finding in part()] if is_main_process() else []
    findings.append(selftest.group())
    wrong = [finding for finding in findings if finding.state == "wrong"]
    if is_main_process():
        if args.json:
            print(json.dumps({"ok": not wrong, "findings": [asdict(finding) for finding in findings]}, indent=2))
        else:
            _print(findings)
    return 1 if wrong else 0


def _print(findings: list[Any]) -> None:
    """A line a finding, with what to do below."""
    from stego_dist import console

    marks = {"ok": ("✓", None), "note": ("·", "yellow"), "wrong": ("✗", "red")}
    for finding in findings:
        mark, style = marks[finding.state]
        line = f"{mark} {finding.name}: {finding.found}"
        if finding.remedy:
            line += f"\n    → {finding.remedy}"
        console.out.print(line, style=style, markup=False, highlight=False, soft_wrap=True)
    wrong = sum(finding.state == "wrong" for finding in findings)
    last = f"{wrong} thing(s) to mend" if wrong else "nothing is wrong"
    console.out.print(last, style="red" if wrong else "green", highlight=False)
