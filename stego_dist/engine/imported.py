"""`import CHECKPOINT`: a published STEGO checkpoint becomes a run that eval, predict and report take.

1. read the file (models/published.py): backbone, head, probes, settings;
2. the configuration given says which data; what the checkpoint decides replaces its settings;
3. RUN/backbone.safetensors, model.safetensors, config.yaml, provenance.json, status.json are written;
4. k-means over training codes where the shard set is there; the published method has learned clusters alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import safetensors.torch
from accelerate import Accelerator

from stego_dist import console
from stego_dist.config import Config
from stego_dist.config.load import validate
from stego_dist.data.manifest import ShardSet
from stego_dist.data.samples import ShardSamples
from stego_dist.engine.clusters import draw_codes, find_clusters
from stego_dist.engine.inputs import fingerprint_over, make_backbone, provenance
from stego_dist.engine.predict import CLUSTERS
from stego_dist.engine.record import prepare_run_dir, record_failure
from stego_dist.engine.selection import describe
from stego_dist.engine.setup import make_accelerator, on_main_process
from stego_dist.engine.supply import features_of
from stego_dist.errors import UserError
from stego_dist.models.backbone import Backbone
from stego_dist.models.published import PublishedStego, read_published
from stego_dist.models.weights import load_tensors
from stego_dist.rundir import RunDir, atomic_path, sha256_file, write_json, writing_to

SETTINGS = {
    "pos_intra_weight": ("loss", "self_pair", "weight"),
    "pos_intra_shift": ("loss", "self_pair", "shift"),
    "pos_inter_weight": ("loss", "knn_pair", "weight"),
    "pos_inter_shift": ("loss", "knn_pair", "shift"),
    "neg_inter_weight": ("loss", "random_pair", "weight"),
    "neg_inter_shift": ("loss", "random_pair", "shift"),
    "feature_samples": ("loss", "points"),
    "neg_samples": ("loss", "negatives"),
    "pointwise": ("loss", "centring"),
    "max_steps": ("train", "steps"),
}
"""Published settings that the run's configuration takes over, by our keys."""
FEATURES = {"feat": "feat", "KK": "keys"}
"""Published `dino_feat_type`."""
REMEDY = "Nothing can be evaluated without it."


def import_checkpoint(path: Path, config: Config, run: RunDir, *, overwrite: bool = False) -> Config:
    """Write the run; returns its configuration. Under a launcher every rank calls it.

    Raises UserError: a file that is no such checkpoint, a backbone or a number of classes that does not fit the
    configuration, a run that is already there.
    """
    published = read_published(path)
    config = imported_config(config, published, run, path)
    _check_fit(config, published, path)
    shard_set = _shard_set(config, published, path)
    accelerator = make_accelerator(config.train.precision, config.train.timeout_minutes)
    try:
        prepare_run_dir(run, config, accelerator, resume=False, overwrite=overwrite)
        try:
            _write(path, config, published, run, shard_set, accelerator)
        except BaseException as error:
            record_failure(run, accelerator, error, step=published.step)
            raise
    finally:
        accelerator.end_training()
    return config


def imported_config(config: Config, published: PublishedStego, run: RunDir, path: Path) -> Config:
    """The configuration of the run: what the checkpoint decides, and data and evaluation of `config`."""
    values, shape = config.model_dump(mode="json"), published.segmenter.shape
    known = published.backbone_id
    values |= {"name": run.root.name, "run_dir": str(run.root)}
    values["backbone"] |= {"weights": str(_backbone_file(run)), "pos_interp": "dino"}
    if known:
        values["backbone"] |= {"name": known, "options": {}, "stride": None}
    if published.settings.get("dino_feat_type") in FEATURES:
        values["backbone"]["feature"] = FEATURES[published.settings["dino_feat_type"]]
    values["head"] |= {"code_dim": shape["code_dim"], "projection": shape["projection"]}
    values["clusters"]["count"] = shape["num_clusters"]
    values["eval"]["clusters"] = "learned"
    for theirs, (*sections, key) in SETTINGS.items():
        if published.settings.get(theirs) is not None:
            node: dict[str, Any] = values
            for section in sections:
                node = node[section]
            node[key] = published.settings[theirs]
            if key in ("weight", "shift"):
                values["loss"]["preset"] = None  # the numbers are the checkpoint's
    return validate(values, f"{path} with the configuration {config.name}")


def _check_fit(config: Config, published: PublishedStego, path: Path) -> None:
    """Raise UserError when the file's backbone is not the configuration's, or does not give what the head takes."""
    b = config.backbone
    random = Backbone(b.name, weights="random", feature=b.feature, pos_interp=b.pos_interp, options=b.options)
    load_tensors(
        random.model, published.backbone, f"import: {path}: the backbone (as {b.name}, see backbone.name and .options)"
    )
    if random.dim != published.segmenter.shape["dim"]:
        raise UserError(
            f"import: {path}: the head takes features of width {published.segmenter.shape['dim']}, but the backbone in "
            f"the same file gives {random.dim}"
        )


def _shard_set(config: Config, published: PublishedStego, path: Path) -> ShardSet | None:
    """The shard set with its training split, if it is there. Raises UserError when its classes are others."""
    try:
        shard_set = ShardSet.open(config.data.shards, config.data.storage)
        shard_set.split(config.data.train_split)
    except UserError as error:
        console.say(f"no k-means over training codes: {error}")
        return None
    classes = published.segmenter.shape["num_classes"]
    if shard_set.num_classes not in (None, classes):
        raise UserError(
            f"import: {path} was trained for {classes} classes, but the shard set {shard_set.root} has "
            f"{shard_set.num_classes}; give a configuration of the same data set"
        )
    return shard_set


def _backbone_file(run: RunDir) -> Path:
    return run.root / "backbone.safetensors"


def _write(
    path: Path, config: Config, published: PublishedStego, run: RunDir, shard_set: ShardSet | None,
    accelerator: Accelerator,
) -> None:  # fmt: skip
    def write_backbone() -> None:
        with writing_to(run.root, REMEDY), atomic_path(_backbone_file(run)) as tmp:
            safetensors.torch.save_file({k: v.contiguous() for k, v in published.backbone.items()}, tmp)

    on_main_process(accelerator, write_backbone)
    backbone = make_backbone(config).to(accelerator.device)
    segmenter = published.segmenter.to(accelerator.device)
    codes = None
    if shard_set is not None:
        console.say("clustering training codes by k-means")
        samples = ShardSamples(shard_set, config.data.train_split)
        features = features_of(config, samples, backbone, None, accelerator.device)
        codes = draw_codes(config, accelerator, len(samples), features, segmenter.head)

    def write() -> None:
        if codes is not None:
            segmenter.kmeans.copy_(find_clusters(config, codes, segmenter.num_clusters))
        split = shard_set.split(config.data.train_split).fingerprint if shard_set else "not there"
        source = {"file": path.name, "sha256": sha256_file(path), "settings": published.settings}
        inputs = fingerprint_over(config, split, backbone)
        clusters = list(CLUSTERS) if codes is not None else ["learned"]
        chosen = describe("last", None, published.step)
        with writing_to(run.root, REMEDY):
            write_json(run.provenance, {**provenance(inputs), "imported": source})
            segmenter.save(run.model, step=published.step, name=config.name, selected=chosen, clusters=clusters)
            run.write_status("done", step=published.step, exit_code=0)

    on_main_process(accelerator, write)
    shape = published.segmenter.shape
    console.say(
        f"imported {path.name}: {config.backbone.name}, codes of width {shape['code_dim']}, {shape['num_clusters']} "
        f"clusters, {shape['num_classes']} classes, step {published.step}"
        + (f"; left out: {', '.join(published.unused)}" if published.unused else "")
    )
    console.say(
        "eval.clusters=learned, as published; "
        + ("k-means over training codes is reported beside it" if codes is not None else "there are no others")
        + f"; next: stego-dist eval {run.root}"
    )
