"""What the head must beat: k-means over the raw features of the same backbone, by the same evaluator."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from accelerate import Accelerator

from stego_dist import console
from stego_dist.config import Config
from stego_dist.data.manifest import ShardSet
from stego_dist.data.samples import ShardSamples
from stego_dist.engine.clusters import draw_codes, find_clusters
from stego_dist.engine.evaluate import evaluate
from stego_dist.engine.inputs import cluster_count, features_fingerprint
from stego_dist.engine.supply import features_of, open_bank
from stego_dist.models.backbone import Backbone
from stego_dist.models.segmenter import Segmenter


def raw_features(config: Config, accelerator: Accelerator, backbone: Backbone) -> dict[str, Any]:
    """Results of spherical k-means over raw training features (from the bank when it is there)."""
    shard_set = ShardSet.open(config.data.shards, config.data.storage)
    samples = ShardSamples(shard_set, config.data.train_split)
    segmenter = Segmenter(
        dim=backbone.dim,
        code_dim=backbone.dim,
        projection="none",
        num_clusters=cluster_count(config, shard_set),
        num_classes=None,
    ).to(accelerator.device)
    bank = None
    if (Path(config.features.dir) / "manifest.json").exists():
        bank = open_bank(config, features_fingerprint(config, shard_set, backbone), accelerator.device)
    features = features_of(config, samples, backbone, bank, accelerator.device)
    console.say("baseline: clustering raw features by k-means")
    codes = draw_codes(config, accelerator, len(samples), features, segmenter.head)
    if accelerator.is_main_process:
        segmenter.kmeans.copy_(find_clusters(config, codes, segmenter.num_clusters))
    accelerator.wait_for_everyone()
    if accelerator.num_processes > 1:
        import torch.distributed as dist

        dist.broadcast(segmenter.kmeans, 0)
    return evaluate(config, accelerator, segmenter, backbone, clusters=("kmeans",), title="baseline").results
