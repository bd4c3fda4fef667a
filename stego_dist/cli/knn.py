"""`stego-dist knn build CONFIG`: the global neighbour table, features included; `show` is in knn_show.py."""

from __future__ import annotations

import argparse
from typing import Any

from stego_dist.cli import knn_show
from stego_dist.cli.common import add_config, config_of


def add_parser(verbs: Any) -> None:
    """Add the verb."""
    knn = verbs.add_parser("knn", help="the global neighbour table")
    actions = knn.add_subparsers(dest="action", metavar="ACTION", required=True)
    knn_show.add_action(actions)
    parser = actions.add_parser(
        "build",
        help="embed the training crops and find the nearest neighbours of each",
        epilog=(
            "One pass of the backbone writes the descriptors, and the bank with train.features=bank.\n"
            "The search is exact, or by an inverted file where that would take over an hour (knn.method=auto), on all\n"
            "workers, each within knn.memory_gb. A job that was killed continues when it is started again.\n\n"
            "examples:\n"
            "  stego-dist knn build configs/camvid11_vitti16.yaml\n"
            "  stego-dist knn build CONFIG knn.exclude_same_image=true --overwrite   search anew; features stay\n"
            "  stego-dist knn build CONFIG knn.method=ivf knn.ivf_code=sq8 knn.recall=0.98\n"
            "  RAY_ADDRESS=10.0.0.1:6379 stego-dist knn build CONFIG    on a running Ray cluster"
        ),
    )
    add_config(parser)
    parser.add_argument(
        "--overwrite", action="store_true", help="replace features made from something else; search anew"
    )
    parser.set_defaults(run=run_build)


def run_build(args: argparse.Namespace) -> int:
    """Embed and search on one cluster."""
    config = config_of(args)
    from stego_dist import console
    from stego_dist.data.manifest import ShardSet
    from stego_dist.jobs.cluster import cluster_for
    from stego_dist.jobs.embed import embed
    from stego_dist.jobs.knn import build_table

    ShardSet.open(config.data.shards, config.data.storage).split(config.data.train_split)  # before a cluster is begun
    with cluster_for(config.features.workers, config.features.gpus_per_worker):
        fingerprint = embed(config, bank=config.train.features == "bank", overwrite=args.overwrite)
        table = build_table(config, fingerprint, overwrite=args.overwrite)
    console.say(f"neighbour table: {table}; next: stego-dist train {args.config}")
    return 0
