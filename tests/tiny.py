"""A data set and a configuration so small that a whole run takes seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from stego_dist.config import Config, load_config
from stego_dist.data.card import load_card
from stego_dist.data.manifest import ShardSet
from stego_dist.data.pack import build
from stego_dist.data.plan import BuildOptions
from stego_dist.data.samples import ShardSamples
from stego_dist.engine.inputs import features_fingerprint, make_backbone, open_store
from stego_dist.features.store import write_manifest, write_shard_in_batches
from stego_dist.jobs.embed import embed_shard
from stego_dist.jobs.views import view_jobs
from stego_dist.knn.search import search
from stego_dist.knn.table import choose_method, knn_dir, knn_fingerprint, write_part
from stego_dist.knn.table import write_manifest as write_table_manifest

TREE: dict[str, Any] = {
    "data": {"resolution": 32, "workers": 0},
    "backbone": {
        "name": "vit_tiny_patch16_224",
        "weights": "random",
        "options": {"img_size": 32, "patch_size": 8, "depth": 1, "embed_dim": 24, "num_heads": 2},
    },
    "head": {"code_dim": 6},
    "loss": {"preset": "cocostuff27_vits8", "points": 3, "negatives": 2, "group_size": 4},
    "knn": {"k": 5, "positives": 3},
    "features": {"batch_size": 4},
    "train": {
        "steps": 6,
        "batch_size": 8,
        "features": "bank",
        "log_every": 1,
        "checkpoint_every": 2,
        "validate_every": 0,
        "trackers": [],
    },
    "clusters": {"restarts": 2, "iterations": 10},
    "eval": {"resolution": 40, "batch_size": 3, "panels": 2},
}


def write_images(root: Path, *, train: int = 14, val: int = 5, labels: bool = True, seed: int = 0) -> Path:
    """Pictures of two textures with labels 0 and 1 and a border that is ignored."""
    rng = np.random.default_rng(seed)
    for split, count in (("train", train), ("val", val)):
        for i in range(count):
            label = np.zeros((44, 52), np.uint8)
            label[:, int(rng.integers(15, 37)) :] = 1
            colour = np.where(label[..., None] == 1, rng.integers(120, 255, 3), rng.integers(0, 120, 3))
            image = np.clip(colour + rng.normal(0, 20, (44, 52, 3)), 0, 255).astype(np.uint8)
            label[:2] = 255
            for kind, array, suffix in (("imgs", image, "jpg"), ("labels", label, "png")):
                if kind == "imgs" or labels:
                    path = root / kind / split / f"picture_{i:02d}.{suffix}"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    Image.fromarray(array).save(path)
    return root


def build_shards(root: Path, **kwargs: Any) -> ShardSet:
    """Shards of `write_images`, five of them for training."""
    source = write_images(root / "source", **kwargs)
    return build(load_card("folder"), source, root / "shards", BuildOptions(min_shards=5))


def config_at(root: Path, *overrides: str, **sections: Any) -> Config:
    """The tiny configuration with everything below `root`."""
    tree = {**TREE, "name": "tiny", "run_dir": str(root / "run"), **sections}
    tree["data"] = {**TREE["data"], "shards": str(root / "shards"), **sections.get("data", {})}
    tree["features"] = {**TREE["features"], "dir": str(root / "features")}
    path = root / "config.yaml"
    path.write_text(yaml.safe_dump(tree), "utf-8")
    return load_config(path, overrides)


def embed_and_search(config: Config) -> None:
    """What `knn build` writes, without a cluster."""
    import torch

    shard_set = ShardSet.open(config.data.shards)
    samples, backbone = ShardSamples(shard_set, config.data.train_split), make_backbone(config)
    fingerprint = features_fingerprint(config, shard_set, backbone)
    names = [shard.name for shard in samples.split.shards]
    for number, name in enumerate(names):
        batches = embed_shard(config, samples, backbone, number, True, torch.device("cpu"))
        size = samples.split.shards[number].samples
        write_shard_in_batches(Path(config.features.dir), name, size, batches, fingerprint)
    write_manifest(Path(config.features.dir), names, fingerprint)
    choose_method(knn_dir(config), "exact")
    store, wanted = open_store(config, fingerprint), knn_fingerprint(config, fingerprint)
    for number, name in enumerate(names):
        ids = np.arange(store.starts[number], store.starts[number + 1])
        found = search(query_ids=ids, database=store, k=config.knn.k)
        write_part(knn_dir(config), name, found, wanted)
    write_table_manifest(knn_dir(config), names, wanted, method="exact")


def keep_views(config: Config) -> None:
    """What the features job keeps for evaluation, without a cluster."""
    shard_set, backbone = ShardSet.open(config.data.shards), make_backbone(config)
    for job in view_jobs(config, shard_set, backbone, overwrite=True):
        for shard in job.todo:
            job.write(config, ShardSamples(shard_set, job.views.split), backbone, shard)
        job.finish()
