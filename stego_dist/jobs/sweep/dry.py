"""What a sweep will take: trials, steps and bytes, before anything is begun."""

from __future__ import annotations

from collections.abc import Sequence

from stego_dist.config import Config
from stego_dist.console import size
from stego_dist.data.manifest import ShardSet
from stego_dist.engine.inputs import make_backbone, make_segmenter
from stego_dist.jobs.embed import store_bytes
from stego_dist.jobs.sweep.banks import is_there
from stego_dist.jobs.sweep.plan import Plan
from stego_dist.jobs.views import view_jobs

NEIGHBOUR = 8 + 4
"""Bytes of a neighbour: id and similarity."""
ADAM = 3
"""What a checkpoint holds of every parameter: itself and two moments."""


def foresee(plan: Plan, configs: Sequence[Config], done: int) -> list[str]:
    """Sentences; `configs`: one for each set of features, `done`: trials that have a result."""
    left, steps = plan.trials - done, plan.base.train.steps
    most = "at most " if plan.early_stop != "off" else ""
    lines = [
        f"{left} trials of {steps:,} steps: {most}{left * steps:,} steps" + (f" ({done} are done)" if done else "")
    ]
    total = 0
    for config in configs:
        shard_set = ShardSet.open(config.data.shards, config.data.storage)
        split, backbone = shard_set.split(config.data.train_split), make_backbone(config)
        if is_there(config):
            lines.append(f"features and neighbour table are there: {config.features.dir}")
            continue
        bank = config.train.features == "bank"
        needed = sum(store_bytes(config, split, backbone, split.num_samples, bank))
        needed += split.num_samples * config.knn.k * NEIGHBOUR
        if bank:
            needed += sum(job.needed for job in view_jobs(config, shard_set, backbone, overwrite=False))
        total += needed
        lines.append(f"features and neighbour table are built first: {size(needed)} in {config.features.dir}")
    segmenter = make_segmenter(plan.base, make_backbone(plan.base).dim, ShardSet.open(plan.base.data.shards))
    parameters = 4 * sum(value.numel() for value in segmenter.state_dict().values())
    kept = min(plan.base.train.keep_checkpoints, -(-steps // plan.base.train.checkpoint_every))
    each = parameters * (1 + ADAM * kept)
    lines.append(f"a trial leaves about {size(each)} (model, {kept} checkpoint(s)), all of them {size(each * left)}")
    lines.append(f"in all about {size(total + each * left)}")
    return lines
