"""`stego-dist import CHECKPOINT --config CONFIG --out RUN`: a published STEGO checkpoint as a run."""

from __future__ import annotations

import argparse
from typing import Any


def add_parser(verbs: Any) -> None:
    """Add the verb."""
    parser = verbs.add_parser(
        "import",
        help="turn a published STEGO checkpoint into a run",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=(
            "CONFIG says which data the run is evaluated on; backbone, head, clusters and loss are the checkpoint's.\n"
            "Nothing in the file is executed; one that holds other pickled objects is refused.\n\n"
            "examples:\n"
            "  stego-dist import cocostuff27_vit_base_5.ckpt --config configs/published/cocostuff27_vitb8.yaml \\\n"
            "      --out runs/published_vitb8\n"
            "  stego-dist eval runs/published_vitb8 eval.crf=both data.image_resize=nearest"
        ),
    )
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="the Lightning file (.ckpt)")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="override settings of CONFIG")
    parser.add_argument("--config", required=True, metavar="CONFIG", help="a YAML file, see configs/")
    parser.add_argument("--out", required=True, metavar="RUN", help="folder of the run that is written")
    parser.add_argument("--overwrite", action="store_true", help="replace a run that is there")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Read, write the run, say what it is."""
    from pathlib import Path

    from stego_dist.cli.common import config_of
    from stego_dist.engine.imported import import_checkpoint
    from stego_dist.rundir import RunDir

    import_checkpoint(Path(args.checkpoint), config_of(args), RunDir(Path(args.out)), overwrite=args.overwrite)
    return 0
