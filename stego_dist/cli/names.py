"""`stego-dist names RUN`: the clusters of a run with their names and colours, and how they are changed."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.text import Text

    from stego_dist.data.colours import Colour


def add_parser(verbs: Any) -> None:
    """Add the verb."""
    parser = verbs.add_parser(
        "names",
        help="show or set the names and colours of a run's clusters",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=(
            "RUN/names.yaml holds them; predict, report, export and serve obey it, and nothing is trained again.\n"
            "Clusters of one name are one class. RUN/report.html shows what each cluster holds.\n\n"
            "examples:\n"
            "  stego-dist names runs/mine\n"
            "  stego-dist names runs/mine --write                     a file to edit\n"
            "  stego-dist names runs/mine --set 3=road 7=road '9=parked car' 5=#80c040"
        ),
    )
    parser.add_argument("run_dir", metavar="RUN", help="folder of a trained run")
    parser.add_argument(
        "--write", action="store_true", help="write RUN/names.yaml as it would be now, if it is not there"
    )
    parser.add_argument(
        "--set", nargs="+", metavar="CLUSTER=NAME", default=[], help="names, or colours as #rrggbb, of some clusters"
    )
    parser.add_argument("--json", action="store_true", help="print as JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Change what is asked for, then print the table."""
    from pathlib import Path

    from stego_dist import console
    from stego_dist.inference.model import OpenedRun
    from stego_dist.inference.names import changed_names, write_names

    opened = OpenedRun.open(Path(args.run_dir))
    readout = opened.config.eval.clusters
    names = opened.names(readout)
    path = opened.run.names
    if args.set:
        names = changed_names(names, args.set)
    if args.set or (args.write and not path.exists()):
        write_names(path, names, opened.digest(readout))
        console.say(f"{path} has the names of {len(names.of_cluster)} clusters")
    elif args.write:
        console.say(f"{path} is there already; edit it, or change some names with --set")
    rows = [
        {"cluster": k, "name": names.classes[i].name, "colour": names.classes[i].colour, "class": i}
        for k, i in enumerate(names.of_cluster)
    ]
    shares = opened.shares(readout)
    for k, row in enumerate(rows):
        row["share"] = None if shares is None else shares[k]
    if args.json:
        print(json.dumps({"clusters": readout, "of": opened.digest(readout), "names": rows}, indent=2))
    else:
        _print(rows, readout)
    return 0


def swatch(colour: Colour) -> Text:
    """A block of a colour, for tables."""
    from rich.text import Text

    return Text("  ", style=f"on #{bytes(colour).hex()}")


def _print(rows: list[dict[str, Any]], readout: str) -> None:
    from rich.table import Table
    from rich.text import Text

    from stego_dist import console
    from stego_dist.inference.names import hex_colour

    table = Table(title=f"{readout} clusters")
    for heading in ("cluster", "", "name", "colour", "class", "share"):
        table.add_column(heading, justify="right" if heading in ("cluster", "class", "share") else "left")
    for row in rows:
        share = "" if row["share"] is None else f"{100 * row['share']:.1f} %"
        table.add_row(
            str(row["cluster"]), swatch(row["colour"]), Text(row["name"]), hex_colour(row["colour"]), str(row["class"]),
            share,
        )  # fmt: skip
    console.out.print(table)
