"""Adaptive shifts in training: logged, resumed to the bit, the same on any number of processes and parts of a batch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from stego_dist.config import Config
from stego_dist.engine.calibrate import as_trained
from stego_dist.engine.learner import Learner
from stego_dist.engine.opened import Opened
from stego_dist.engine.setup import make_accelerator
from stego_dist.engine.train import train
from stego_dist.losses.calibration import WEIGHTS
from stego_dist.losses.correspondence import Adaptive
from stego_dist.rundir import RunDir, read_metrics
from tests.engine.faults import command
from tests.engine.test_calibrate import AUTO, assert_same_weights, chosen, record_of, weights
from tests.ranks import on_ranks
from tests.tiny import config_at

ADAPTIVE = ["loss.preset=null", *(f"loss.{kind}_pair.shift=adaptive" for kind in ("self", "knn", "random"))]


@pytest.fixture(scope="module")
def followed(prepared, tmp_path_factory) -> Config:
    """A run with adaptive shifts."""
    config = config_at(prepared, f"run_dir={tmp_path_factory.mktemp('adaptive') / 'run'}", *ADAPTIVE)
    assert train(config) == 0
    return config


def test_adaptive_shifts_are_logged_and_resume_to_the_bit(prepared, followed, tmp_path):
    lines = read_metrics(RunDir(Path(followed.run_dir)).metrics)
    for kind in ("self", "knn", "random"):
        shifts = [line[f"shift/{kind}"] for line in lines]
        assert len(shifts) == 6 and len(set(shifts)) == 6
        used = as_trained(followed, RunDir(Path(followed.run_dir))).loss.pairs[kind]
        assert used.shift == pytest.approx(np.mean(shifts)) and used.weight == WEIGHTS[kind]
    for steps in (3, 6):
        config = config_at(prepared, f"run_dir={tmp_path / 'run'}", *ADAPTIVE, f"train.steps={steps}")
        assert train(config, resume=True) == 0
    assert_same_weights(tmp_path / "run", Path(followed.run_dir))


@pytest.mark.ranks
def test_adaptive_shifts_are_the_same_on_any_number_of_processes_and_parts(prepared, tmp_path):
    runs = []
    for name, ranks, parts in (("one", 1, 1), ("two", 2, 2)):
        config_at(prepared)
        settings = [*ADAPTIVE, "loss.group_size=2", f"train.accumulate={parts}", f"run_dir={tmp_path / name}"]
        arguments = ["train", str(prepared / "config.yaml"), *settings]
        assert set(on_ranks(ranks, command, None, *arguments, log=tmp_path / "log")) == {0}
        runs.append(read_metrics(tmp_path / name / "metrics.jsonl"))
    for x, y in zip(*runs, strict=True):
        for key in ("loss/total", "shift/self", "shift/knn", "shift/random", "above_shift/random"):
            assert x[key] == pytest.approx(y[key], rel=1e-3, abs=1e-5), key
    a, b = weights(tmp_path / "one"), weights(tmp_path / "two")
    for key in a:
        torch.testing.assert_close(a[key], b[key], rtol=2e-3, atol=2e-4)


def test_an_adaptive_configuration_gives_its_numbers_to_the_step(prepared, tmp_path):
    config = config_at(
        prepared, f"run_dir={tmp_path / 'run'}", *AUTO, "loss.random_pair.shift=adaptive", "loss.adaptive_bias=0.11",
        "loss.knn_pair.weight=0.5",
    )  # fmt: skip
    (tmp_path / "run").mkdir()
    accelerator = make_accelerator()
    learner = Learner(config, accelerator, RunDir(tmp_path / "run"), Opened(config, accelerator.device))
    settings = learner.model.settings
    expected = chosen(record_of(config))
    assert settings.shifts == (expected["self"][1], expected["knn"][1], Adaptive(False, 0.11, 3.5))
    assert settings.weights == (0.67, 0.5, 0.63)
