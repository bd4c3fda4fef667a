"""Other clusters for a trained run: another number of them, or the one that its codes speak for.

The head stays as it is. k-means over its codes is done anew, the learned cluster probe is trained anew on frozen codes
(engine/probing.py), and the model file is replaced in one piece. What was evaluated or named before belongs to the
clusters before.
"""

from __future__ import annotations

from typing import Any

import torch
from accelerate import Accelerator

from stego_dist import console
from stego_dist.config import Config
from stego_dist.engine.calibrate import as_trained
from stego_dist.engine.cluster_count import choose_count
from stego_dist.engine.clustering import RunClustering
from stego_dist.engine.frozen import FrozenFeatures
from stego_dist.engine.label_free import LabelFree
from stego_dist.engine.opened import Opened
from stego_dist.engine.probing import share, train_probes
from stego_dist.engine.record import check_backbone
from stego_dist.engine.setup import StopFlag, on_main_process
from stego_dist.models.segmenter import Segmenter
from stego_dist.rundir import RunDir, writing_to

NAMES_BEFORE = "names-before.yaml"


def recluster(config: Config, run: RunDir, accelerator: Accelerator, count: int | None) -> dict[str, Any]:
    """Give the run `count` clusters, None: as many as its codes have modes; every launched rank calls it.

    Returns how they were found: the number, the curve where it was chosen, the record of clustering, the label-free
    score. Raises UserError: no trained model, inputs that are gone or others.
    """
    config = as_trained(config, run)
    before, meta = Segmenter.load(run.model)
    opened = Opened(config, accelerator.device)
    check_backbone(run, opened.backbone.weights_digest())
    before = before.to(accelerator.device)
    score = LabelFree(config, accelerator, opened)
    clustering, chosen = RunClustering(config, accelerator, before.head, opened, StopFlag()), None
    if count is None:
        console.say("trying numbers of clusters")
        chosen = choose_count(config, before, clustering.codes(), score)
        count = chosen.chosen
        console.say(f"  {count} clusters: {chosen.record()['rule']}")
    segmenter = _with_count(config, before, count).to(accelerator.device)
    clusters = clustering.find(segmenter)
    frozen = FrozenFeatures(config, accelerator, opened.training, opened.backbone, opened.bank)
    train_probes(config, accelerator, segmenter, frozen, linear=False)
    share(segmenter, accelerator)
    scored = score(segmenter, config.eval.clusters)
    found: dict[str, Any] = {
        "clusters": count,
        "clustering": clusters.record(),
        "label_free": {name.removeprefix("val/"): value for name, value in scored.items()},
        "count": chosen.record() if chosen else None,
    }

    def save() -> None:
        with writing_to(run.root, "Then cluster again."):
            segmenter.save(run.model, **{**meta, **{key: found[key] for key in ("clustering", "label_free", "count")}})
            if run.names.exists():
                run.names.replace(run.root / NAMES_BEFORE)
                console.warn(f"{run.names} named the clusters before; it is {run.root / NAMES_BEFORE} now")

    on_main_process(accelerator, save)
    return found


def _with_count(config: Config, before: Segmenter, count: int) -> Segmenter:
    """The same head and linear probe; a fresh cluster probe, by the seed."""
    shape = {**before.shape, "num_clusters": count, "feature_weight": 0.0}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        segmenter = Segmenter(**shape)
    segmenter.head.load_state_dict(before.head.state_dict())
    if segmenter.linear is not None and before.linear is not None:
        segmenter.linear.load_state_dict(before.linear.state_dict())
    return segmenter.eval()
