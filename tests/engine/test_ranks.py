"""Any number of processes and parts of a batch: the same training to rounding, the same integers of an evaluation."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.engine.faults import command
from tests.ranks import on_ranks
from tests.tiny import config_at

pytestmark = pytest.mark.ranks

VARIANTS = {"1": (1, 1), "2": (2, 1), "4": (4, 1), "1 in 2 parts": (1, 2), "2 in 2 parts": (2, 2), "1 in 4": (1, 4)}
"""Processes, train.accumulate."""
GROUPS = ["loss.group_size=2", "train.validate_every=3"]


def train(prepared: Path, run: Path, ranks: int, *settings: str, fault: str | None = None, codes: int = 0) -> Path:
    config_at(prepared)
    arguments = ["train", str(prepared / "config.yaml"), f"run_dir={run}", *settings]
    assert set(on_ranks(ranks, command, fault, *arguments, log=run.parent / f"{run.name}.log")) == {codes}
    return run


def log(run: Path, rank: int = 0) -> str:
    return (run.parent / f"{run.name}.log" / f"{rank}.log").read_text()


def lines(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def assert_agree(one: Path, other: Path) -> None:
    a, b = (load_file(run / "model.safetensors") for run in (one, other))
    for key in a:
        torch.testing.assert_close(a[key], b[key], rtol=2e-3, atol=2e-4, msg=key)
    for x, y in zip(lines(one), lines(other), strict=True):
        assert x.keys() == y.keys()
        for key in x:
            if "/" in key and key != "val/seconds":
                assert (x[key] is None) == (y[key] is None), key
                assert x[key] is None or x[key] == pytest.approx(y[key], rel=1e-3, abs=1e-5), key


@pytest.fixture(scope="module")
def runs(prepared) -> dict[str, Path]:
    """The same run on several numbers of processes and parts."""
    return {
        name: train(prepared, prepared / f"ranks {name}", ranks, *GROUPS, f"train.accumulate={parts}")
        for name, (ranks, parts) in VARIANTS.items()
    }


@pytest.mark.parametrize("name", [name for name in VARIANTS if name != "1"])
def test_training_and_validation_agree_to_rounding(runs, name):
    assert_agree(runs["1"], runs[name])


def test_evaluation_integers_agree(runs, prepared):
    """The same model evaluated by one, two and three processes, of which the last has one image of five."""
    evaluated, pictures = [], []
    for ranks in (1, 2, 3):
        run = Path(shutil.copytree(runs["1"], prepared / f"evaluated_by_{ranks}"))
        arguments = [
            "eval", str(run), "--baseline", "eval.crf=cluster", "eval.crf_workers=1", "eval.linear=converged",
            "eval.cluster_seeds=2", "eval.more_resolutions=[48]",
        ]  # fmt: skip
        assert set(on_ranks(ranks, command, None, *arguments, log=prepared / "log")) == {0}
        evaluated.append(json.loads((run / "results.json").read_text()))
        pictures.append({path.name: path.read_bytes() for path in (run / "panels").rglob("*.*")})
    assert len(pictures[0]) > 2 and pictures[0] == pictures[1] == pictures[2]
    one = evaluated[0]
    assert set(one["measures"]) == {"kmeans", "learned", "linear", "linear_converged", "kmeans+crf"}
    for other in evaluated[1:]:
        for name, entry in one["measures"].items():
            assert entry["confusion"] == other["measures"][name]["confusion"], name
            here, there = (found["more_resolutions"]["48"]["measures"].get(name) for found in (one, other))
            assert here["confusion"] == there["confusion"], name
        assert one["cluster_seeds"] == other["cluster_seeds"]
        raw = [r["baselines"]["raw features"]["measures"]["kmeans"]["confusion"] for r in (one, other)]
        assert raw[0] == raw[1]


def test_several_runs_are_evaluated_together(runs, prepared, tmp_path):
    """By two processes, one run after the other; the spread is over the runs."""
    both = [str(shutil.copytree(runs[name], tmp_path / f"seed{i}")) for i, name in enumerate(("1", "2"))]
    assert set(on_ranks(2, command, None, "eval", *both, "eval.flip=false", "--json", log=tmp_path / "log")) == {0}
    text = (tmp_path / "log" / "0.log").read_text()
    found = json.loads(text[text.index("\n{") :])
    assert [result["flip"] for result in found["runs"]] == [False, False]
    for name, spread in found["spread"].items():
        values = [result["measures"][name]["miou"] for result in found["runs"]]
        assert spread["count"] == 2 and spread["miou"]["values"] == values
        assert spread["miou"]["mean"] == pytest.approx(sum(values) / 2)
    assert all((Path(run) / "report.html").exists() for run in both)


def test_a_run_goes_on_with_another_number_of_processes(runs, prepared, tmp_path):
    run = train(prepared, tmp_path / "run", 2, *GROUPS, "train.steps=3")
    train(prepared, run, 1, *GROUPS, "--resume", "train.accumulate=2")
    assert f"resuming {run}, a run of 2 process(es), on 1 after step 3" in log(run)
    assert_agree(runs["1"], run)


def test_a_process_without_labelled_pixels_adds_nothing(runs, prepared, tmp_path):
    one, two = (train(prepared, tmp_path / f"{n}", n, *GROUPS, fault="half_without_labels") for n in (1, 2))
    assert_agree(one, two)
    full, half = (lines(run)[0]["loss/linear"] for run in (runs["1"], one))  # of the same initial weights
    assert half != pytest.approx(full, rel=1e-4)


def test_one_process_that_is_not_finite_is_skipped_by_all(prepared, tmp_path):
    one, two = (
        train(prepared, tmp_path / f"{n}", n, *GROUPS, "train.non_finite=skip", fault="not_finite:2") for n in (1, 2)
    )
    assert_agree(one, two)
    assert [line["skipped"] for line in lines(two) if "skipped" in line] == [0, 0, 1, 1, 1, 1]
    assert json.loads((two / "status.json").read_text())["skipped"] == 1
    assert "the loss of step 3 is not finite on process 1, here on process 0 (total " in log(two)


def test_one_process_that_is_not_finite_stops_all(prepared, tmp_path):
    run = train(prepared, tmp_path / "run", 2, *GROUPS, fault="not_finite:2", codes=1)
    status = json.loads((run / "status.json").read_text())
    assert (status["state"], status["exit_code"], status["step"]) == ("failed", 1, 3)
    assert "not finite on process 1" in status["error"] and "train.non_finite=skip" in status["error"]
    assert [p.name for p in (run / "checkpoints").iterdir()] == ["step-00000002"]
    train(prepared, run, 2, *GROUPS, "--resume", "train.non_finite=skip")  # the advice can be followed


def test_processes_that_do_not_fit_the_groups(prepared, tmp_path):
    run = train(prepared, tmp_path / "run", 2, "train.batch_size=4", codes=2)
    assert "with this batch use 1 process(es)" in log(run)
    run = train(prepared, tmp_path / "parts", 2, "train.accumulate=2", codes=2)
    assert "2 processes can't share in 2 parts each (train.accumulate); with this batch use 1 process(es)" in log(run)
