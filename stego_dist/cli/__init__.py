"""The command line: one small file a verb, each with `add_parser(subparsers)` that sets `run`.

Exit codes: 0 done, 1 failed, 2 bad usage or configuration, 75 saved and to be resumed, 130 interrupted.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module

from stego_dist import __version__, console
from stego_dist.errors import UserError

VERBS = (
    "fit", "shards", "features", "knn", "calibrate", "train", "cluster", "eval", "report", "predict", "names",
    "serve", "export", "import_", "plan", "sweep", "show", "doctor", "quickstart",
)  # fmt: skip
"""Modules of this package, named as their verbs; `import` is a word of Python's."""


def build_parser() -> argparse.ArgumentParser:
    """The whole argument parser; each verb's module adds its own part."""
    parser = argparse.ArgumentParser(
        prog="stego-dist",
        description="Unsupervised semantic segmentation (STEGO) from a folder of images to a report.",
        epilog="the path: shards build → knn build → train → eval → report; `stego-dist VERB --help` has examples",
    )
    parser.add_argument("--version", action="version", version=__version__)
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    for verb in VERBS:
        import_module(f"stego_dist.cli.{verb}").add_parser(verbs)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Parse `argv`, run the verb, return the exit code; user errors are printed without a traceback."""
    args = _parse(argv)
    try:
        return int(args.run(args))
    except UserError as error:
        console.fail(error)
        return error.exit_code
    except KeyboardInterrupt:
        console.err.print("interrupted", style="red")
        return 130
    finally:
        sys.stdout.flush()


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Like parse_args, but overrides may also stand behind options, which argparse alone does not allow."""
    parser = build_parser()
    args, rest = parser.parse_known_args(argv)
    if rest and (not hasattr(args, "overrides") or any(word.startswith("-") for word in rest)):
        parser.error("unrecognized arguments: " + " ".join(rest))
    if rest:
        args.overrides += rest
    return args
