"""Arguments that several verbs share."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stego_dist.config import Config


def add_config(parser: argparse.ArgumentParser) -> None:
    """CONFIG and overrides."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("config", metavar="CONFIG", help="a YAML file, see configs/")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="override settings of the file")


def config_of(args: argparse.Namespace) -> Config:
    """The configuration that the arguments name."""
    from stego_dist.config import load_config

    return load_config(args.config, args.overrides)
