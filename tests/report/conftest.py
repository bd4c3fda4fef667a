"""Runs to report on: one made by hand, and two that were really trained and evaluated."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from stego_dist.cli import main
from stego_dist.engine.train import train
from stego_dist.rundir import RunDir
from tests.report.made import run_at
from tests.tiny import build_shards, config_at, embed_and_search


@pytest.fixture
def run(tmp_path) -> RunDir:
    """A run whose files are made by hand."""
    return run_at(tmp_path)


@pytest.fixture
def schema() -> dict[str, Any]:
    """What results.json follows."""
    found: dict[str, Any] = json.loads(files("stego_dist.report").joinpath("results.schema.json").read_text("utf-8"))
    return found


@pytest.fixture(scope="session")
def evaluated(tmp_path_factory) -> RunDir:
    """A tiny labelled run, evaluated by the command; for reading only."""
    return evaluated_run(tmp_path_factory.mktemp("labelled"), labels=True)


@pytest.fixture(scope="session")
def evaluated_unlabelled(tmp_path_factory) -> RunDir:
    """The same without labels."""
    return evaluated_run(tmp_path_factory.mktemp("unlabelled"), labels=False)


def evaluated_run(root: Path, labels: bool) -> RunDir:
    """Build shards and table, train, evaluate."""
    build_shards(root, labels=labels)
    config = config_at(root, "clusters.count=3", "train.validate_every=3", "eval.correspondences=4")
    embed_and_search(config)
    train(config)
    assert main(["eval", config.run_dir]) == 0
    return RunDir(Path(config.run_dir))
