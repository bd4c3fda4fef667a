"""The global neighbour table: query shards are spread over Ray workers, each visits all database blocks.

A shard's rows depend on the descriptors alone (knn/search.py), so workers, blocks and restarts don't change the table.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from stego_dist import console
from stego_dist.config import Config
from stego_dist.engine.inputs import knn_dir, knn_fingerprint, open_store
from stego_dist.jobs.cluster import run_on_workers
from stego_dist.knn.search import backend, search
from stego_dist.knn.table import is_done, write_manifest, write_part
from stego_dist.rundir import Fingerprint

REMEDY = "Pass --overwrite to compute it again."


def build_table(config: Config, features: Fingerprint, *, overwrite: bool = False) -> Path:
    """Write the neighbour table of the feature store to features.dir/knn; returns the folder."""
    store = open_store(config, features)
    root, fingerprint = knn_dir(config), knn_fingerprint(config, features)
    if overwrite:
        shutil.rmtree(root, ignore_errors=True)
    todo = [i for i, name in enumerate(store.shards) if not is_done(root, name, fingerprint, REMEDY)]
    console.say(f"exact search for the {config.knn.k} nearest of each of {len(store)} crops, to {root}")
    if todo:
        make = partial(_make_worker, config, features)
        sizes = np.diff(store.starts)
        done = len(store) - int(sizes[todo].sum())
        with console.progress("knn", len(store), "crops", done) as bar:
            for count in run_on_workers(make, todo, workers=config.features.workers, gpus=1.0):
                bar.advance(count)
    write_manifest(root, store.shards, fingerprint, exact=True)
    return root


def _make_worker(config: Config, features: Fingerprint) -> Callable[[int], int]:
    """Runs in a worker: open the descriptors once."""
    store = open_store(config, features)
    sources, top_k = store.sources, backend(config.knn.backend)
    fingerprint = knn_fingerprint(config, features)

    def search_and_write(shard: int) -> int:
        ids = np.arange(store.starts[shard], store.starts[shard + 1])
        found = search(
            query_ids=ids,
            database=store,
            sources=sources,
            k=config.knn.k,
            exclude_same_image=config.knn.exclude_same_image,
            block=config.knn.block,
            top_k=top_k,
        )
        write_part(knn_dir(config), store.shards[shard], found, fingerprint)
        return len(ids)

    return search_and_write
