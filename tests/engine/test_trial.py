"""A sweep's trial: numbers of a run, in this process, any number of times, stopped and continued."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from stego_dist.engine.results import evaluate_run
from stego_dist.engine.train import train
from stego_dist.engine.trial import run_trial
from stego_dist.errors import StaleInputError
from stego_dist.models.segmenter import Segmenter
from stego_dist.rundir import RunDir
from tests.tiny import build_shards, config_at, embed_and_search

SETTINGS = ("train.validate_every=2", "train.checkpoint_every=100")


class Enough(Exception):
    """What a scheduler raises."""


def trial_at(root: Path, run_dir: Path, *overrides: str):
    return config_at(root, f"run_dir={run_dir}", *SETTINGS, *overrides)


def without_times(numbers: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in numbers.items() if not name.startswith("seconds/")}


@pytest.fixture(scope="module")
def undisturbed(prepared, tmp_path_factory):
    config = trial_at(prepared, tmp_path_factory.mktemp("undisturbed") / "run")
    told = []
    numbers = run_trial(config, report=lambda step, found: told.append((step, found)))
    return config, numbers, told


def test_numbers_are_those_of_train_and_eval(prepared, undisturbed, tmp_path):
    _, numbers, told = undisturbed
    other = trial_at(prepared, tmp_path / "run")
    train(other)
    measures = evaluate_run(other, RunDir(Path(other.run_dir))).results["measures"]
    for name in ("kmeans", "learned", "linear"):
        for key in ("miou", "accuracy"):
            assert numbers[f"{name}/{key}"] == measures[name][key]
    assert numbers["miou"] == numbers["kmeans/miou"] and numbers["accuracy"] == numbers["kmeans/accuracy"]
    assert [step for step, _ in told] == [2, 4, 6]
    last = {name: value for name, value in told[-1][1].items() if name.startswith(("val/miou", "val/accuracy"))}
    assert {name: numbers[name] for name in last} == pytest.approx(last)
    _, meta = Segmenter.load(tmp_path / "run" / "model.safetensors")  # the score is that of the headline clusters
    score = {name.removeprefix("val/"): value for name, value in numbers.items() if name.startswith("val/")}
    assert {name: score[name] for name in meta["label_free"]} == pytest.approx(meta["label_free"])
    assert meta["label_free"]["label_free"] != pytest.approx(told[-1][1]["val/label_free"])
    assert numbers["seconds/train"] > 0 and numbers["seconds/overhead"] > 0


def test_a_finished_trial_is_only_read(undisturbed, monkeypatch):
    config, numbers, _ = undisturbed
    monkeypatch.setattr("stego_dist.engine.trial.make_accelerator", None)
    assert run_trial(config) == numbers


def test_a_finished_run_is_only_evaluated(prepared, undisturbed, tmp_path, monkeypatch):
    other = trial_at(prepared, tmp_path / "run")
    train(other)
    monkeypatch.setattr("stego_dist.engine.trial.train_on", None)
    assert without_times(run_trial(other)) == without_times(undisturbed[1])


def test_other_threads_take_turns_and_leave_none_behind(prepared, undisturbed, tmp_path):
    found = {}

    def work(number: int) -> None:
        found[number] = run_trial(trial_at(prepared, tmp_path / str(number), "train.trackers=[tensorboard]"))

    run_trial(trial_at(prepared, tmp_path / "first"))  # what a process starts once
    before = set(threading.enumerate())
    threads = [threading.Thread(target=work, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(threading.enumerate()) == before
    for numbers in found.values():
        assert without_times(numbers) == without_times(undisturbed[1])


def test_what_report_raises_stops_the_trial_which_can_go_on(prepared, undisturbed, tmp_path):
    config = trial_at(prepared, tmp_path / "run")
    run = RunDir(tmp_path / "run")

    def stop(step: int, numbers: dict[str, float]) -> None:
        assert "val/label_free" in numbers
        if step == 4:
            raise Enough("rung 4")

    before = set(threading.enumerate())
    with pytest.raises(Enough, match="^rung 4$"):
        run_trial(config, report=stop)
    assert set(threading.enumerate()) == before
    status = json.loads(run.status.read_text())
    assert (status["state"], status["step"]) == ("stopped", 4) and "error" not in status
    assert not run.model.exists() and not run.trial.exists()
    steps = []
    numbers = run_trial(config, report=lambda step, _: steps.append(step))
    assert steps == [6]
    assert without_times(numbers) == without_times(undisturbed[1])
    ours, theirs = (load_file(RunDir(Path(c.run_dir)).model) for c in (config, undisturbed[0]))
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_a_run_directory_of_other_settings_is_refused(prepared, undisturbed):
    run_dir = undisturbed[0].run_dir
    with pytest.raises(StaleInputError, match=r"loss\.self_pair\.shift: made with .*, now 0\.3"):
        run_trial(trial_at(prepared, run_dir, "loss.self_pair.shift=0.3"))


def test_more_steps_go_on_from_a_finished_trial(prepared, undisturbed, tmp_path):
    run_dir = tmp_path / "run"
    run_trial(trial_at(prepared, run_dir))
    steps = []
    run_trial(trial_at(prepared, run_dir, "train.steps=8"), report=lambda step, _: steps.append(step))
    assert steps == [8]


def test_without_labels_there_is_the_label_free_score(tmp_path):
    build_shards(tmp_path, labels=False)
    config = config_at(tmp_path, "clusters.count=3")
    embed_and_search(config)
    numbers = run_trial(config)
    assert "val/label_free" in numbers and not any("miou" in name or "accuracy" in name for name in numbers)
