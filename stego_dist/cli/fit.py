"""`stego-dist fit FOLDER`: your own images to clusters and a report, in one command."""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stego_dist.fitting.folder import Folder
    from stego_dist.fitting.plan import Choice

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def add_parser(verbs: Any) -> None:
    """Add the verb."""
    parser = verbs.add_parser(
        "fit",
        help="a folder of images to clusters and a report, in one command",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=(
            "Says first what it will do, how long that takes and what it writes. Needs no labels. Started again it\n"
            "goes on where it stopped. The folder of results is a run: predict, report, export and eval take it.\n\n"
            "examples:\n"
            "  stego-dist fit my_photos --preview                     a first picture\n"
            "  stego-dist fit my_photos --classes 12 --time 20m\n"
            "  stego-dist fit my_photos --backbone vit_base_patch8_224.dino --out runs/photos\n"
            "  stego-dist fit my_photos --weights dino_deitsmall16_pretrain.pth        without a download\n"
            "  stego-dist fit my_photos --steps 3000 --resolution 320 head.code_dim=90 --dry-run\n"
            "then:\n"
            "  stego-dist predict my_photos-stego new_photos --out segmented"
        ),
    )
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="images at any depth: jpg, png, tif, webp, bmp")
    parser.add_argument(
        "overrides", nargs="*", metavar="section.key=value", help="settings that differ from the choice"
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="results (default: FOLDER-stego, here)")
    parser.add_argument("--classes", default="auto", metavar="K", help="number of clusters, or auto (default)")
    parser.add_argument("--backbone", metavar="NAME", help="a timm model (default: DINO ViT-S/8, without a GPU /16)")
    parser.add_argument(
        "--weights", default="timm", metavar="FILE", help="its weights: a file, or timm's hub (default)"
    )
    parser.add_argument("--stride", type=int, metavar="N", help="of a CNN's feature map")
    parser.add_argument("--time", metavar="T", help="about how long it may take, for instance 90s, 20m, 6h")
    parser.add_argument("--images", type=int, metavar="N", help="train on so many, evenly spread (default: all)")
    parser.add_argument("--crops", choices=("auto", "none", "five"), default="auto", help="of each image (auto)")
    parser.add_argument("--resolution", type=int, metavar="PX", help="shorter side that is looked at (448, crops 224)")
    parser.add_argument("--steps", type=int, metavar="N", help="of training (1000)")
    parser.add_argument("--seed", type=int, default=0, help="of everything random (0)")
    parser.add_argument("--preview", action="store_true", help="few images, few steps, into FOLDER-preview")
    parser.add_argument("--on-error", choices=("fail", "skip"), default="skip", help="what an unreadable image does")
    parser.add_argument("--overwrite", action="store_true", help="begin anew where a fit already lies")
    parser.add_argument("--dry-run", action="store_true", help="say what would be done, and do nothing")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Fit; 75 when a signal stopped the training, which goes on with the same command."""
    from stego_dist.cli import main
    from stego_dist.cli.cluster import parse_count
    from stego_dist.fitting.plan import Request
    from stego_dist.fitting.run import fit

    name = args.folder.resolve().name or "images"
    out = args.out or Path(f"{name}-{'preview' if args.preview else 'stego'}")
    request = Request(
        classes=parse_count(args.classes), backbone=args.backbone, weights=args.weights, stride=args.stride,
        resolution=args.resolution, steps=args.steps, crops=args.crops, seconds=parse_time(args.time),
        images=args.images, preview=args.preview, seed=args.seed,
        overrides=tuple(args.overrides),
    )  # fmt: skip

    def tell(choice: Choice, folder: Folder) -> None:
        print_choice(choice, folder, out)
        if args.dry_run:
            raise _Enough

    try:
        found = fit(args.folder, out, request, main, on_error=args.on_error, overwrite=args.overwrite, tell=tell)
    except _Enough:
        return 0
    if args.json:
        print(json.dumps(found, indent=2, ensure_ascii=False))
    else:
        print_result(found["result"], out)
    return 0


class _Enough(Exception):
    """A dry run ends here."""


def parse_time(text: str | None) -> float | None:
    """Seconds of "90s", "20m", "1.5h", "2d". Raises ConfigError."""
    from stego_dist.errors import ConfigError

    if text is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text)
    if not found or not float(found[1]):
        raise ConfigError(f"--time: {text!r} is no time; write for instance 90s, 20m, 6h or 2d")
    return float(found[1]) * UNITS[found[2]]


def print_choice(choice: Choice, folder: Folder, out: Path) -> None:
    """What will be done, on stderr: stdout is for the result."""
    from stego_dist import console
    from stego_dist.console import duration, size

    some = "" if choice.images == len(folder) else f" {choice.images} of them,"
    crops = "whole" if choice.crops == "none" else "five crops of each"
    console.say(
        f"{folder.root}: {len(folder)} images, {size(folder.bytes)}, about {folder.longer}×{folder.shorter} pixels\n"
        f"to do:{some} {crops}, at {choice.resolution} pixels; {choice.steps} steps, features "
        f"{'kept on disk' if choice.features == 'bank' else 'computed in every step'}\n"
        f"takes about {duration(choice.seconds)}, writes about {size(choice.bytes)} to {out}"
    )
    for name, seconds in choice.stages.items():
        console.say(f"  {name:<26}{duration(seconds):>10}")


def print_result(result: dict[str, Any], out: Path) -> None:
    """What came of it, and what to do next."""
    from stego_dist import console

    score = result["label_free"] or {}
    lines = [f"{result['clusters']} clusters, label-free score {score.get('label_free', float('nan')):.3f}"]
    if result["rejected"]:
        lines.append(f"{result['rejected']} files could not be read and were left out: {out / 'shards/rejected.jsonl'}")
    lines += [
        f"look:     {result['report']}",
        f"name:     {result['names']}     clusters of one name become one class",
        f"predict:  stego-dist predict {out} IMAGES --out DIR",
    ]
    console.out.print("\n".join(lines), soft_wrap=True, markup=False, highlight=False)
