"""`stego-dist export RUN --format torch | onnx | safetensors`: a trained run as a file that runs elsewhere."""

from __future__ import annotations

import argparse
from typing import Any


def add_parser(verbs: Any) -> None:
    """Add the verb."""
    parser = verbs.add_parser(
        "export",
        help="write a trained run as torch.export, ONNX or safetensors, checked, with a model card",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=(
            "Writes RUN/export/FORMAT: the model from images to labels, classes.json, MODEL_CARD.md, parity.json and,\n"
            "for ONNX, example.py, which needs onnxruntime, numpy and Pillow alone. What was written is run on three\n"
            "sizes and two batches and refused where it differs from Python. RUN/names.yaml is obeyed.\n\n"
            "examples:\n"
            "  stego-dist export runs/mine --format onnx\n"
            "  stego-dist export runs/mine --format torch --readout linear --no-flip\n"
            "  stego-dist export runs/mine --format onnx --sizes 448x448 448x597   a file each, of these sizes alone\n"
            "  stego-dist export runs/mine --format safetensors --out models/mine\n"
            "  stego-dist export runs/mine --format onnx backbone.weights=FILE     where the weights lie now\n\n"
            'ONNX takes more packages: pip install "stego-dist[export]"'
        ),
    )
    parser.add_argument("run_dir", metavar="RUN", help="folder of a trained run, or a safetensors export of one")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="settings that differ from the run's")
    parser.add_argument("--format", required=True, choices=("torch", "onnx", "safetensors"))
    parser.add_argument("--out", metavar="DIR", help="folder that is written (default: RUN/export/FORMAT)")
    parser.add_argument(
        "--readout", choices=("kmeans", "learned", "linear"), help="what labels are read by (default: eval.clusters)"
    )
    parser.add_argument(
        "--scale", type=_scale, metavar="PIXELS",
        help="shorter side of images as the model sees them, or native (default: eval.resolution)",
    )  # fmt: skip
    parser.add_argument("--no-flip", action="store_true", help="leave the mirror image out: half the work, a bit worse")
    parser.add_argument(
        "--sizes", nargs="+", type=_size, metavar="HxW", help="only these sizes, a file each (default: any size)"
    )
    parser.add_argument(
        "--tolerance", type=float, default=1e-4, metavar="X",
        help="largest difference of a score that is accepted (default: %(default)s)",
    )  # fmt: skip
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Export, say where."""
    from pathlib import Path

    from stego_dist import console
    from stego_dist.export.export import Options, export

    options = Options(
        args.format, args.readout, args.scale, False if args.no_flip else None,
        tuple(args.sizes) if args.sizes else None, args.tolerance, tuple(args.overrides),
    )  # fmt: skip
    out = export(Path(args.run_dir), options, Path(args.out) if args.out else None)
    for file in sorted(out.iterdir()):
        console.say(f"{out / file.name}  {console.size(file.stat().st_size)}")
    return 0


def _scale(text: str) -> int | str:
    if text == "native":
        return text
    if not text.isdecimal() or int(text) < 8:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a number of pixels from 8, or native")
    return int(text)


def _size(text: str) -> tuple[int, int]:
    height, mark, width = text.partition("x")
    if not mark or not height.isdecimal() or not width.isdecimal() or min(int(height), int(width)) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: expected HEIGHTxWIDTH in pixels, for instance 448x597")
    return int(height), int(width)
