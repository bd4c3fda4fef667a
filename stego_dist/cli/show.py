"""`stego-dist show CONFIG`: the resolved configuration."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from stego_dist.cli.common import add_config, config_of

if TYPE_CHECKING:
    from stego_dist.config import Config


def add_parser(verbs: Any) -> None:
    """Add the verb."""
    parser = verbs.add_parser(
        "show",
        help="print the resolved configuration",
        epilog=(
            "examples:\n"
            "  stego-dist show configs/camvid11_vitti16.yaml train.steps=200\n"
            "  stego-dist show CONFIG --value run_dir data.shards"
        ),
    )
    add_config(parser)
    parser.add_argument("--value", nargs="+", metavar="KEY", help="only these settings, a line each, for scripts")
    parser.add_argument("--json", action="store_true", help="as JSON instead of YAML")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the tree; errors in it are reported all at once, exit code 2."""
    from stego_dist.config import dump_config

    config = config_of(args)
    if args.value:
        print("\n".join(str(_value(config, key)) for key in args.value))
        return 0
    print(json.dumps(config.model_dump(mode="json"), indent=2) if args.json else dump_config(config), end="")
    return 0


def _value(config: Config, key: str) -> Any:
    """A setting by its dotted name. Raises ConfigError when there is none."""
    from stego_dist.errors import ConfigError

    value: Any = config
    for part in key.split("."):
        if part not in getattr(type(value), "model_fields", {}):
            raise ConfigError(f"--value: there is no setting {key}; `stego-dist show CONFIG` prints them all")
        value = getattr(value, part)
    return value
