"""`eval RUN`: load a finished run, evaluate it, write results.json."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from accelerate import Accelerator

from stego_dist import console
from stego_dist.config import Config, LossConfig
from stego_dist.data.manifest import ShardSet
from stego_dist.engine.baselines import RAW, Baseline, parse_baselines, run_baselines
from stego_dist.engine.calibrate import as_trained
from stego_dist.engine.coefficients import describe as describe_coefficients
from stego_dist.engine.collapse import codes_agree, one_cluster
from stego_dist.engine.evaluate import Evaluation, evaluate
from stego_dist.engine.findings import add_findings
from stego_dist.engine.heartbeat import heartbeat
from stego_dist.engine.inputs import make_backbone
from stego_dist.engine.predict import CLUSTERS
from stego_dist.engine.readouts import fit_readouts
from stego_dist.engine.record import check_backbone
from stego_dist.engine.setup import make_accelerator
from stego_dist.models.segmenter import Segmenter
from stego_dist.rundir import RunDir, read_metrics, write_json

FORMAT = "stego_dist.results/1"


@contextmanager
def evaluating(config: Config) -> Iterator[Accelerator]:
    """The launched processes, for any number of runs: a group that is begun anew for each would race with the last."""
    minutes = config.train.timeout_minutes
    accelerator = make_accelerator(config.train.precision, minutes)
    rank, ranks = accelerator.process_index, accelerator.num_processes
    with heartbeat(rank, ranks, minutes * 60, lambda silent: console.fail(f"lost contact: {silent}")):
        try:
            yield accelerator
        finally:
            accelerator.end_training()


def evaluate_run(config: Config, run: RunDir, *, baselines: Sequence[str] | None = None) -> Evaluation | None:
    """`evaluate_one` of the launched processes, which are given back afterwards."""
    with evaluating(config) as accelerator:
        return evaluate_one(config, run, accelerator, baselines=baselines)


def evaluate_one(
    config: Config, run: RunDir, accelerator: Accelerator, *, baselines: Sequence[str] | None = None
) -> Evaluation | None:
    """Evaluate the run's model on every launched rank; the main process writes results.json and gets the result.

    baselines: names of what is evaluated beside it (engine/baselines.py); without any name k-means over the raw
    features alone, None: nothing. Raises ConfigError for names that don't exist, StaleInputError when the backbone's
    weights are not those that the run was trained with.
    """
    beside = [Baseline(RAW)] if baselines is not None and not baselines else parse_baselines(baselines or ())
    asked, config = config.loss, as_trained(config, run)
    segmenter, meta = Segmenter.load(run.model)
    counted = config.clusters.model_copy(update={"count": segmenter.num_clusters})  # it may have been clustered again
    config = config.model_copy(update={"clusters": counted})
    backbone = make_backbone(config).to(accelerator.device)
    check_backbone(run, backbone.weights_digest())
    segmenter = segmenter.to(accelerator.device)
    # a run that was imported without its shard set has learned clusters alone
    known = tuple(meta.get("clusters", CLUSTERS))
    more, fitted = fit_readouts(config, accelerator, segmenter, backbone)
    evaluation = evaluate(config, accelerator, segmenter, backbone, clusters=known, more=more)
    if fitted:
        evaluation.results["fitted"] = fitted
    found, unavailable = run_baselines(config, accelerator, backbone, beside, probes=bool(baselines))
    if not accelerator.is_main_process:
        return None
    add_findings(config, run, segmenter, backbone, evaluation, accelerator.device)
    header = {"format": FORMAT, "run": config.name, "step": meta["step"], "seed": config.seed}
    header |= {name: meta[name] for name in ("selected", "clustering", "label_free", "count") if name in meta}
    header |= {"backbone": config.backbone.name, "weights": config.backbone.weights}
    header |= {"dataset": ShardSet.open(config.data.shards, config.data.storage).manifest.card.name}
    header |= {"coefficients": describe_coefficients(asked, config.loss)}
    evaluation.results = {**header, **evaluation.results}
    if beside:
        evaluation.results |= {"baselines": found, "unavailable_baselines": unavailable}
    evaluation.results["warnings"] = _collapse(config, asked, run, evaluation.results)
    write_json(run.results, evaluation.results)
    return evaluation


def _collapse(config: Config, asked: LossConfig, run: RunDir, results: dict[str, Any]) -> list[str]:
    """Warn of codes that agree and of clusters that take everything; returns the warnings."""
    lines = [line for line in read_metrics(run.metrics) if "code_correlation/random" in line]
    last = lines[-1] if lines else {}
    found = [codes_agree(lines, config.loss, asked)]
    found += [one_cluster(share, name, last, config.loss, asked) for name, share in results["largest_cluster"].items()]
    warnings = [message for message in found if message]
    for message in warnings:
        console.warn(message)
    return warnings
