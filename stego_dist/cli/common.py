"""Arguments that several verbs share."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

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


def add_look(parser: argparse.ArgumentParser) -> Any:
    """How a run looks at any image: --readout, --scale, --window, --no-flip; returns their group."""
    look = parser.add_argument_group("how images are looked at")
    look.add_argument("--readout", choices=("kmeans", "learned", "linear"), help="default: the run's headline clusters")
    look.add_argument(
        "--scale", type=scale, metavar="N|native",
        help="pixels of the shorter side as the network sees it (default: as the run is evaluated), or no resizing",
    )  # fmt: skip
    look.add_argument("--window", type=count, metavar="N", help="longest side in one piece (default: 2 × resolution)")
    look.add_argument("--no-flip", action="store_true", help="don't average with the mirror image: twice as fast")
    return look


def count(text: str) -> int:
    """A whole number above 0, as argparse's type."""
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number above 0")
    return int(text)


def scale(text: str) -> int | str:
    """Pixels, or "native"."""
    return text if text == "native" else count(text)
