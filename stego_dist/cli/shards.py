"""`stego-dist shards build | verify | show | cards`: images to shards, and what is in them."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stego_dist import console
from stego_dist.cli.cards import add_tiling, run_cards, tiled
from stego_dist.errors import ConfigError

if TYPE_CHECKING:
    from stego_dist.data.manifest import ShardSet
    from stego_dist.data.plan import BuildPlan

_BUILD_EXAMPLES = """\
examples:
  stego-dist shards build folder --source my_images --out shards/built/mine --crops five
  stego-dist shards build camvid11 --source CamVid --out shards/built/camvid11
  stego-dist shards build cocostuff27 --source COCO --lists COCO/curated --out shards/built/coco --crops five
  stego-dist shards build my_card.yaml --source DIR --out DIR --splits train --on-error skip
  stego-dist shards build folder --source my_images --out s3://bucket/mine

Started again it goes on where it stopped; --overwrite begins anew. `stego-dist shards cards` lists the cards.
"""


def add_parser(verbs: Any) -> None:
    """Add the verb and its sub-verbs."""
    shards = verbs.add_parser("shards", help="images → shards: build, verify, show, cards")
    subs = shards.add_subparsers(dest="action", metavar="ACTION", required=True)

    def add(name: str, help: str, epilog: str, run: Callable[[argparse.Namespace], int]) -> Any:
        parser = subs.add_parser(name, help=help, epilog=epilog, formatter_class=argparse.RawDescriptionHelpFormatter)
        parser.set_defaults(run=run)
        parser.add_argument("--json", action="store_true", help="print the result as JSON")
        return parser

    build = add("build", "pack a data set", _BUILD_EXAMPLES, run_build)
    build.add_argument("card", metavar="CARD", help="name of a dataset card, or path to a YAML file")
    build.add_argument("--source", type=Path, required=True, metavar="DIR", help="where the data set lies")
    build.add_argument(
        "--out", required=True, metavar="DIR", help="where the shards go: a folder, or s3://bucket/prefix"
    )
    build.add_argument("--lists", type=Path, metavar="DIR", help="where the card's lists of images lie (in --source)")
    build.add_argument(
        "--crops", choices=("none", "five", "random"), default="none", help="crops of every image (none)"
    )
    build.add_argument("--ratio", type=float, default=0.5, help="side of a crop as part of the image's (0.5)")
    build.add_argument("--seed", type=int, default=0, help="of random crops (0)")
    build.add_argument("--max-side", type=int, metavar="N", help="shrink images whose longer side is longer (never)")
    build.add_argument("--quality", type=int, default=95, help="of JPEGs that are encoded anew (95)")
    build.add_argument("--shard-mb", type=float, default=64, metavar="MB", help="size of a shard, about (64)")
    build.add_argument("--splits", nargs="+", metavar="SPLIT", help="only these (default: as the card says)")
    build.add_argument(
        "--on-error", choices=("fail", "skip"), default="fail", help="what an unreadable file does (fail)"
    )
    build.add_argument("--overwrite", action="store_true", help="begin anew: remove the shards in --out")
    build.add_argument("--dry-run", action="store_true", help="say what a build would write, and write nothing")
    build.add_argument("--workers", type=int, metavar="N", help="processes (default: one a CPU; 1 for few images)")

    add_tiling(build)

    verify = add("verify", "check every file", "example: stego-dist shards verify DIR", run_verify)
    verify.add_argument("dir", metavar="DIR", help="a shard set: a folder, http(s)://… or s3://bucket/prefix")
    verify.add_argument("--workers", type=int, metavar="N", help="processes (default: as many as are of use)")

    example = "example: stego-dist shards show DIR --sheet sheet.png"
    show = add("show", "print what a shard set holds, draw a contact sheet", example, run_show)
    show.add_argument("dir", metavar="DIR", help="a shard set: a folder, http(s)://… or s3://bucket/prefix")
    show.add_argument(
        "--sheet",
        type=Path,
        metavar="PNG",
        help="of the first split, in place of sheet-SPLIT.png of each, in DIR or, of a URL, here",
    )

    cards = add("cards", "list the dataset cards", "example: stego-dist shards cards camvid11", run_cards)
    cards.add_argument("name", nargs="?", metavar="NAME", help="show this card (or file) whole")


def run_build(args: argparse.Namespace) -> int:
    """Build a shard set and print what it holds."""
    from stego_dist.data.card import load_card
    from stego_dist.data.pack import build
    from stego_dist.data.plan import BuildOptions, plan_build
    from stego_dist.jobs.pack import packing_runner

    card, workers = tiled(load_card(args.card), args), _workers(args)
    options = BuildOptions(
        args.crops, args.ratio, args.seed, args.quality, round(args.shard_mb * 2**20), on_error=args.on_error,
        max_side=args.max_side,
    )  # fmt: skip
    if args.dry_run:
        _print_plan(plan_build(card, args.source, Path(args.out), options, args.splits, args.lists), args.json)
        return 0
    runner = packing_runner(workers)
    shard_set = build(card, args.source, args.out, options, args.splits, runner, args.overwrite, args.lists)
    _print(shard_set, args.json)
    return 0


def _workers(args: argparse.Namespace) -> int | None:
    workers: int | None = args.workers
    if workers is not None and workers < 1:
        raise ConfigError(f"--workers must be at least 1, got {workers}")
    return workers


def run_verify(args: argparse.Namespace) -> int:
    """Check a shard set; exit code 1 when something is wrong, each bad file named."""
    from stego_dist.data.manifest import ShardSet
    from stego_dist.data.verify import verify

    problems = verify(ShardSet.open(args.dir), workers=_workers(args))
    if args.json:
        print(json.dumps({"ok": not problems, "problems": problems}, indent=2, ensure_ascii=False))
    else:
        for problem in problems:
            console.out.print(problem, style="red", markup=False, highlight=False, soft_wrap=True)
        console.out.print(f"{args.dir}: {len(problems)} problems" if problems else f"{args.dir}: whole")
    return 1 if problems else 0


def run_show(args: argparse.Namespace) -> int:
    """Print card, splits and class shares; write contact sheets."""
    from stego_dist.data.manifest import ShardSet
    from stego_dist.data.sheet import contact_sheet

    shard_set = ShardSet.open(args.dir)
    folder = shard_set.root if isinstance(shard_set.root, Path) else Path()
    sheets = {split: folder / f"sheet-{split}.png" for split in shard_set.splits}
    if args.sheet:
        sheets = {shard_set.splits[0]: args.sheet}
    for split, path in sheets.items():
        contact_sheet(shard_set, split, path)
    _print(shard_set, args.json)
    for path in sheets.values():
        console.say(f"contact sheet: {path}")
    return 0


def summary(shard_set: ShardSet) -> dict[str, Any]:
    """What a shard set holds, as JSON: card, classes, options; per split counts, bytes and class pixels."""
    manifest = shard_set.manifest
    return {
        "path": str(shard_set.root),
        "card": manifest.card.name,
        "title": manifest.card.title,
        "classes": shard_set.classes,
        "options": manifest.options,
        "splits": {
            split.name: {
                "images": split.num_images,
                "samples": split.num_samples,
                "rejected": split.rejected,
                "labelled": split.labelled,
                "shards": len(split.shards),
                "bytes": split.bytes,
                "class_pixels": split.class_pixels,
                "ignored_pixels": split.ignored_pixels,
                "fingerprint": split.fingerprint,
            }
            for split in manifest.splits
        },
    }


def _print_plan(plan: BuildPlan, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"splits": {name: asdict(split) for name, split in plan.estimates.items()}}, indent=2))
        return
    from rich.table import Table

    table = Table("split", "images", "samples", "shards", "MB, about", title=f"{plan.card.title} · would be built")
    for name, split in plan.estimates.items():
        table.add_row(name, str(split.images), str(split.samples), str(split.shards), f"{split.bytes / 1e6:.1f}")
    console.out.print(table)


def _print(shard_set: ShardSet, as_json: bool) -> None:
    if as_json:
        print(json.dumps(summary(shard_set), indent=2, ensure_ascii=False))
        return
    from rich.table import Table

    manifest = shard_set.manifest
    table = Table(
        "split", "images", "crops", "samples", "rejected", "labels", "shards", "MB",
        title=f"{manifest.card.title} · {shard_set.root}",
    )  # fmt: skip
    for split in manifest.splits:
        counts = (split.num_images, manifest.options["crops"], split.num_samples, split.rejected)
        labels = "yes" if split.labelled else "no"
        table.add_row(split.name, *map(str, counts), labels, str(len(split.shards)), f"{split.bytes / 1e6:.1f}")
    console.out.print(table)
    labelled = [split for split in manifest.splits if split.labelled]
    if not labelled:
        return
    shares = Table("id", "class", *(f"{split.name} %" for split in labelled), title="share of labelled pixels")
    for i, (name, (red, green, blue)) in enumerate(zip(shard_set.classes, shard_set.palette)):
        parts = [f"{100 * s.class_pixels[i] / max(1, sum(s.class_pixels)):.2f}" for s in labelled]
        shares.add_row(str(i), f"[rgb({red},{green},{blue})]■[/] {name}", *parts)
    ignored = [s.ignored_pixels / max(1, s.ignored_pixels + sum(s.class_pixels)) for s in labelled]
    shares.add_row("", "ignored (of all pixels)", *(f"{100 * share:.2f}" for share in ignored), style="dim")
    console.out.print(shares)
