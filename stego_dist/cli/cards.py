"""`stego-dist shards cards`: which data sets are known, and what their cards say; changes to a card by options."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING, Any

from stego_dist import console
from stego_dist.errors import ConfigError

if TYPE_CHECKING:
    from stego_dist.data.card import Card


def add_tiling(parser: Any) -> None:
    """Add the options that `tiled` reads."""
    group = parser.add_argument_group("tiles (default: as the card says)")
    group.add_argument("--tile", type=int, metavar="SIZE", help="cut images into squares of this side")
    group.add_argument("--overlap", type=int, metavar="N", help="pixels that neighbouring tiles share")
    group.add_argument("--shrink", type=int, metavar="N", help="reduce images by this factor before they are cut")


def tiled(card: Card, args: argparse.Namespace) -> Card:
    """The card with its tiles as the options say. Raises ConfigError: out of range, or a card that has no tiles."""
    from pydantic import ValidationError

    from stego_dist.data.card import Card, error_lines

    asked = {"size": args.tile, "overlap": args.overlap, "shrink": args.shrink}
    asked = {name: value for name, value in asked.items() if value is not None}
    if not asked:
        return card
    if card.tile is None and args.tile is None:
        raise ConfigError(f"card {card.name} cuts no tiles; --overlap and --shrink need --tile SIZE")
    tile = {**(card.tile.model_dump() if card.tile else {}), **asked}
    try:
        return Card.model_validate({**card.model_dump(), "tile": tile, "expected": None})
    except ValidationError as error:
        raise ConfigError(f"tiles {tile} do not fit card {card.name}:\n{error_lines(error)}") from None


def run_cards(args: argparse.Namespace) -> int:
    """List the dataset cards that can be called by name, or show one as it is written."""
    from stego_dist.data.card import find_card, list_cards, load_card

    if args.name:
        card = load_card(args.name)
        if args.json:
            _json(card.model_dump(mode="json"))
        else:
            sys.stdout.write(find_card(args.name).read_text("utf-8"))
        return 0
    cards = {name: load_card(path) for name, path in list_cards().items()}
    if args.json:
        _json({name: card.model_dump(mode="json") for name, card in cards.items()})
        return 0
    from rich.markup import escape
    from rich.table import Table

    table = Table(show_lines=True)
    for header in ("card", "classes", "splits, images"):
        table.add_column(header, no_wrap=True)
    table.add_column("title, where to get it", overflow="fold")
    for name, card in cards.items():
        classes = "source's" if card.num_classes is None else str(card.num_classes)
        table.add_row(name, classes, _splits(card), f"{escape(card.title)}\n[dim]{escape(card.where)}[/dim]")
    console.out.print(table)
    console.out.print("One card whole: stego-dist shards cards NAME")
    return 0


def _splits(card: Card) -> str:
    """A line a split, with the images (tiles) it should have; in brackets what is built by name only."""
    lines = []
    for split in card.splits:
        count = (card.expected or {}).get(split)
        line = split if count is None else f"{split} {count:,}"
        lines.append(line if split in (card.default_splits or card.splits) else f"({line})")
    return "\n".join(lines)


def _json(value: Any) -> None:
    print(json.dumps(value, indent=2, ensure_ascii=False))
