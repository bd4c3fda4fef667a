"""`stego-dist serve RUN`: a local page to drop an image on, see its clusters, and name them."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from stego_dist.cli.common import add_look

PORT = 8000


def add_parser(verbs: Any) -> None:
    """Add the verb."""
    parser = verbs.add_parser(
        "serve",
        help="a local page to drop images on, see clusters and name them",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=(
            "Names and colours that are given there are kept in RUN/names.yaml; nothing else is written. The page\n"
            "asks for nothing beyond this server. From another machine: ssh -L 8000:localhost:8000 HOST\n\n"
            "examples:\n"
            "  stego-dist serve runs/camvid11_vitti16\n"
            "  stego-dist serve RUN --port 0 --no-flip               any free port; the URL is printed\n"
            "  stego-dist serve RUN backbone.weights=FILE            where the backbone's weights lie now\n"
            "  stego-dist serve RUN --scale native --max-megapixels 100 --max-mb 200 --timeout 600"
        ),
    )
    parser.add_argument("run_dir", metavar="RUN", help="folder of a trained run")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="settings that differ from the run's")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at (default: this machine alone)")
    parser.add_argument("--port", type=int, default=PORT, help="default: %(default)s; 0 takes a free one")
    add_look(parser)
    limits = parser.add_argument_group("limits")
    limits.add_argument(
        "--max-mb", type=_positive, default=32, metavar="MB", help="of an upload (default: %(default)s)"
    )
    limits.add_argument(
        "--max-megapixels", type=_positive, default=50, metavar="MP", help="of an image (default: %(default)s)"
    )
    limits.add_argument(
        "--timeout", type=_positive, default=120, metavar="S",
        help="seconds after which a prediction is given up (default: %(default)s)",
    )  # fmt: skip
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Serve until Ctrl-C or SIGTERM."""
    from stego_dist import console
    from stego_dist.errors import UserError
    from stego_dist.rundir import RunDir

    try:
        from stego_dist.serve.app import Limits
        from stego_dist.serve.server import announce, bind, make_page, serve
    except ModuleNotFoundError as error:
        missing = str(error.name).partition(".")[0]
        if missing not in ("starlette", "uvicorn"):
            raise
        raise UserError(f"serve needs {missing}: pip install 'stego-dist[serve]'") from None

    run_dir = RunDir(Path(args.run_dir))
    limits = Limits(int(args.max_mb * 1e6), int(args.max_megapixels * 1e6), args.timeout)
    address = bind(args.host, args.port)
    page = make_page(
        run_dir, readout=args.readout, scale=args.scale, window=args.window, flip=False if args.no_flip else None,
        overrides=args.overrides, limits=limits,
    )  # fmt: skip
    announce(run_dir, address, page.editor.locked)
    ended = serve(page, address)
    console.say("stopped" if ended else "stopped in the middle of a prediction")
    if not ended:
        os._exit(0)  # the thread that predicts would be torn down under torch, which aborts
    return 0


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number above 0, not {text}")
    return value
