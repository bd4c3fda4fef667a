"""Collapse is named with its cause, and a healthy run is not accused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stego_dist.config import LossConfig, PairConfig
from stego_dist.engine.collapse import codes_agree, one_cluster
from stego_dist.engine.results import evaluate_run
from stego_dist.engine.train import train
from stego_dist.report.page import write_page
from stego_dist.rundir import RunDir, read_metrics
from tests.tiny import config_at

LOSS = LossConfig(preset="cocostuff27_vits8", random_pair=PairConfig(weight=0.6, shift=0.31))


def line(correlation: float, own: float = 0.4, knn: float = 0.3, random: float = 0.1) -> dict[str, float]:
    return {
        "code_correlation/random": correlation, "above_shift/self": own, "above_shift/knn": knn,
        "above_shift/random": random,
    }  # fmt: skip


def test_agreement_is_named_with_the_shifts_below_the_bulk():
    message = codes_agree([line(0.97, 0.99, 0.4, 0.97)] * 5, LOSS)
    assert message.startswith("the codes collapse: those of random pairs of positions correlate 0.97 on average; ")
    assert "99% of self pairs are above loss.self_pair.shift=0.08" in message
    assert "97% of random pairs are above loss.random_pair.shift=0.31" in message and "knn" not in message


def test_healthy_falling_and_missing_numbers_are_not_collapse():
    assert codes_agree([line(0.1)] * 5, LOSS) is None
    assert codes_agree([line(0.95), line(0.95), line(0.79)], LOSS) is None
    assert codes_agree([line(0.95), line(0.92), line(0.88)], LOSS) is None  # on its way down
    assert codes_agree([], LOSS) is None and codes_agree([{"val/label_free": 0.0}], LOSS) is None
    assert codes_agree([line(0.1)] + [line(0.9)] * 5, LOSS) is not None  # only the last ones count


def test_one_cluster_is_named():
    assert one_cluster(0.9, "learned", line(0.2), LOSS) is None
    assert one_cluster(float("nan"), "learned", {}, LOSS) is None
    message = one_cluster(0.97, "learned", line(0.2, 0.99, 0.98, 0.1), LOSS)
    assert message.startswith("one of the learned clusters takes 97.0% of all positions; likely cause: 99% of self")
    assert "loss.random_pair.weight (now 0.6)" in one_cluster(0.99, "learned", line(0.2), LOSS)


def test_shifts_that_were_set_by_hand_can_be_calibrated_instead():
    lines = [line(0.97, 0.99, 0.4, 0.97)] * 5
    advice = "or have them chosen from the data: loss.self_pair.shift=auto loss.random_pair.shift=auto (`stego-dist cal"
    assert advice in codes_agree(lines, LOSS)
    asked = LossConfig(self_pair=PairConfig(shift=0.08))  # the others were calibrated already
    message = codes_agree(lines, LOSS, asked)
    assert "loss.self_pair.shift=auto" in message and "loss.random_pair.shift=auto" not in message
    message = codes_agree(lines, LOSS, LossConfig())
    assert "raise these shifts" in message and "auto" not in message
    assert "loss.*_pair.shift), or have them chosen" in one_cluster(0.99, "learned", line(0.2), LOSS)


def test_an_adaptive_shift_is_blamed_as_it_stood():
    loss = LossConfig(random_pair=PairConfig(shift="adaptive"))
    message = codes_agree([{**line(0.97, random=0.97), "shift/random": 0.123}] * 5, loss)
    assert "97% of random pairs are above loss.random_pair.shift=0.123" in message


SETTINGS = ["train.steps=150", "train.lr_head=0.01", "train.log_every=10", "train.validate_every=50"]


def test_a_run_with_shifts_far_too_low_says_so_everywhere(prepared, tmp_path, capsys):
    shifts = [f"loss.{pair}_pair.shift=-1" for pair in ("self", "knn", "random")]
    config = config_at(prepared, f"run_dir={tmp_path / 'run'}", *SETTINGS, *shifts)
    assert train(config) == 0
    err = capsys.readouterr().err
    assert err.count("the codes collapse: ") == 1 and "raise these shifts" in err
    run = RunDir(tmp_path / "run")
    warnings = json.loads(run.status.read_text())["warnings"]
    assert any("loss.random_pair.shift=-1" in warning for warning in warnings)
    flagged = [entry["step"] for entry in read_metrics(run.metrics) if entry.get("collapse")]
    assert flagged and flagged[0] < 150
    results = evaluate_run(config, run).results
    assert any("the codes collapse" in warning for warning in results["warnings"])
    assert "the codes collapse" in capsys.readouterr().err and "the codes collapse" in write_page(run).read_text()


def test_a_healthy_run_is_not_accused(prepared, tmp_path, capsys):
    shifts = [f"loss.{pair}_pair.shift={shift}" for pair, shift in (("self", 0.5), ("knn", 0.5), ("random", 0.7))]
    config = config_at(prepared, f"run_dir={tmp_path / 'run'}", *SETTINGS, *shifts)
    assert train(config) == 0
    assert "warning" not in capsys.readouterr().err
    assert json.loads((Path(config.run_dir) / "status.json").read_text())["warnings"] == []
    assert not any("collapse" in entry for entry in read_metrics(tmp_path / "run" / "metrics.jsonl"))


def test_a_collapse_is_remembered_after_a_resume(prepared, tmp_path, capsys):
    shifts = [f"loss.{pair}_pair.shift=-1" for pair in ("self", "knn", "random")]
    for steps in (100, 150):
        config = config_at(prepared, f"run_dir={tmp_path / 'run'}", *SETTINGS, *shifts, f"train.steps={steps}")
        assert train(config, resume=True) == 0
    assert capsys.readouterr().err.count("the codes collapse") == 1
    assert any(
        "the codes collapse" in w for w in json.loads((tmp_path / "run" / "status.json").read_text())["warnings"]
    )


@pytest.mark.parametrize("weight", [0.0, 0.5])
def test_a_pair_that_weighs_nothing_is_not_blamed(weight):
    loss = LossConfig(preset="cocostuff27_vits8", knn_pair=PairConfig(weight=weight, shift=0.02))
    assert ("loss.knn_pair.shift" in codes_agree([line(0.9, knn=0.9, own=0.9)], loss)) is (weight > 0)
