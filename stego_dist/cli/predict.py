"""`stego-dist predict RUN IMAGES… --out DIR`: segment any images with a trained run."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING, Any

from stego_dist.cli.common import add_look, count

if TYPE_CHECKING:
    from stego_dist.jobs.predict import Summary


def add_parser(verbs: Any) -> None:
    """Add the verb."""
    parser = verbs.add_parser(
        "predict",
        help="segment your images with a trained run",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=(
            "IMAGES are files, folders, globs, tars of images, shard sets, addresses (http(s)://, s3://), or - for a\n"
            "list of these on stdin, one a line. Writes below DIR:\n"
            "  index/NAME.png        class ids with the classes' colours (.tif, georeferenced, for GeoTIFF)\n"
            "  overlay/NAME.jpg      the colours over the image\n"
            "  predictions.json      classes, and of each image the share and mean confidence of every class\n"
            "Images that are done are skipped when the command is started again. What can't be read is listed at the\n"
            "end and in predictions.json, and makes the exit code 1. Names and colours are those of RUN/names.yaml\n"
            "(stego-dist names RUN).\n\n"
            "examples:\n"
            "  stego-dist predict runs/mine photos --out segmented\n"
            "  stego-dist predict runs/mine 'photos/**/*.jpg' --out segmented --crf\n"
            "  stego-dist predict runs/mine data/camvid11 --split val --out segmented --coco\n"
            "  stego-dist predict runs/mine field.tif --out maps --scale native --window 1024\n"
            "  find /photos -newer last | stego-dist predict runs/mine - --out segmented --workers 8\n"
            "  stego-dist predict runs/mine photos --out segmented backbone.weights=FILE   where the weights lie now"
        ),
    )
    parser.add_argument("run_dir", metavar="RUN", help="folder of a trained run")
    parser.add_argument("overrides", nargs="*", metavar="IMAGES", help="what to segment; also section.key=value")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder to write to")
    parser.add_argument("--split", metavar="NAME", help="split of shard sets (default: the run's evaluated one)")
    look = add_look(parser)
    look.add_argument("--crf", action="store_true", help="refine edges by the dense CRF, at no more than a megapixel")
    write = parser.add_argument_group("what is written")
    write.add_argument("--overlay", choices=("jpg", "webp", "png", "none"), default="jpg", help="default: jpg")
    write.add_argument("--opacity", type=_fraction, default=0.55, help="of the colours over the image (default: 0.55)")
    write.add_argument(
        "--probabilities", action="store_true", help="also probabilities/NAME.npz, on the network's grid"
    )
    write.add_argument("--coco", action="store_true", help="also coco.json: run-length encoded masks")
    write.add_argument(
        "--label-studio", nargs="?", const=True, metavar="PREFIX",
        help="also label_studio.json: tasks with brush pre-annotations; PREFIX stands before the images' paths "
        "(default: that of Label Studio's local files)",
    )  # fmt: skip
    write.add_argument("--overwrite", action="store_true", help="segment again what is done")
    work = parser.add_argument_group("how the work is done")
    work.add_argument(
        "--workers", type=count, default=1, metavar="N",
        help="processes, on Ray where there are several; each takes features.gpus_per_worker GPUs (default: 1)",
    )  # fmt: skip
    work.add_argument("--batch-size", type=count, default=8, metavar="N", help="windows of one forward (default: 8)")
    parser.add_argument("--json", action="store_true", help="print a summary as JSON instead of the table")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Segment, say what was found; 1 when something could not be."""
    from pathlib import Path

    from stego_dist.cli.eval import OVERRIDE
    from stego_dist.errors import ConfigError
    from stego_dist.inference.options import LOCAL_FILES, Options
    from stego_dist.jobs.predict import Setup, predict

    overrides = [w for w in args.overrides if OVERRIDE.match(w) and "." in w.partition("=")[0] and not Path(w).exists()]
    words = [word for word in args.overrides if word not in overrides]
    if not words:
        raise ConfigError("no images: name files, folders, globs, shard sets or addresses, or - for a list on stdin")
    options = Options(
        readout=args.readout, scale=args.scale, window=args.window, flip=False if args.no_flip else None, crf=args.crf,
        overlay=args.overlay, opacity=args.opacity, probabilities=args.probabilities, coco=args.coco,
        label_studio=LOCAL_FILES if args.label_studio is True else args.label_studio, batch_size=args.batch_size,
    )  # fmt: skip
    setup = Setup(Path(args.run_dir), tuple(overrides), options, Path(args.out))
    summary = predict(
        setup, words, split=args.split, stdin=sys.stdin if "-" in words else (), workers=args.workers,
        overwrite=args.overwrite,
    )  # fmt: skip
    _report(summary, as_json=args.json)
    return int(bool(summary.failures))


def _report(summary: Summary, *, as_json: bool) -> None:
    from stego_dist import console

    new = summary.images - summary.done_before
    rate = f", {new / summary.seconds:.2f} images/s" if new and summary.seconds else ""
    console.say(f"{summary.images} images in {summary.out} ({new} new{rate}); predictions.json lists them")
    if summary.coarse:
        console.say(
            f"{summary.coarse} images are more than four times as large as the network sees them: small things are "
            "lost. A larger --scale looks closer, but the clusters were found at the run's own: try it on a few"
        )
    if summary.failures:
        console.fail(f"{len(summary.failures)} could not be segmented:")
        for failure in summary.failures[:20]:
            console.say(f"  {failure.reason}")
        if len(summary.failures) > 20:
            console.say("  … predictions.json has the others")
    if as_json:
        print(json.dumps(_as_json(summary), indent=2))
    elif summary.images:
        _print_table(summary)


def _as_json(summary: Summary) -> dict[str, Any]:
    return {
        "out": str(summary.out),
        "images": summary.images,
        "done_before": summary.done_before,
        "seconds": round(summary.seconds, 3),
        "failures": [{"file": f.where, "reason": f.reason} for f in summary.failures],
        "classes": summary.classes(),
    }


def _print_table(summary: Summary) -> None:
    from rich.table import Table
    from rich.text import Text

    from stego_dist import console
    from stego_dist.cli.names import swatch

    table = Table(title=f"{summary.images} images")
    for heading in ("", "class", "share", "images", "confidence"):
        table.add_column(heading, justify="left" if heading in ("", "class") else "right")
    colours = {c.name: c.colour for c in summary.names.classes}
    for row in summary.classes():
        table.add_row(
            swatch(colours[row["name"]]), Text(row["name"]), f"{100 * row['share']:.1f} %", str(row["images"]),
            f"{row['confidence']:.2f}",
        )  # fmt: skip
    console.out.print(table)


def _fraction(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return value
