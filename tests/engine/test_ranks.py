"""Two processes and one: the same training to rounding, the same integers; killed and resumed: the same bits."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.launching import command, environment, stego
from tests.tiny import config_at

pytestmark = pytest.mark.ranks


@pytest.fixture(scope="module")
def runs(prepared) -> dict[int, Path]:
    """The same run on one and on two processes."""
    config_at(prepared)
    runs = {}
    for processes in (1, 2):
        runs[processes] = prepared / f"ranks{processes}"
        stego(processes, "train", str(prepared / "config.yaml"), f"run_dir={runs[processes]}")
    return runs


def lines(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_training_agrees_to_rounding(runs):
    one, two = (load_file(runs[n] / "model.safetensors") for n in (1, 2))
    for key in one:
        torch.testing.assert_close(one[key], two[key], rtol=2e-3, atol=2e-4, msg=key)
    for a, b in zip(lines(runs[1]), lines(runs[2]), strict=True):
        for key in a:
            if "/" in key:
                assert a[key] == pytest.approx(b[key], rel=1e-3, abs=1e-5), key


def test_evaluation_integers_agree(runs, prepared):
    """The same model evaluated by one and by two processes."""
    copy = Path(shutil.copytree(runs[1], prepared / "evaluated_by_two"))
    for processes, run in ((1, runs[1]), (2, copy)):
        stego(processes, "eval", str(run), "--baseline", "eval.crf=cluster", "eval.crf_workers=1")
    one, two = (json.loads((run / "results.json").read_text()) for run in (runs[1], copy))
    assert set(one["measures"]) == {"kmeans", "learned", "linear", "kmeans+crf"}
    for name, entry in one["measures"].items():
        assert entry["confusion"] == two["measures"][name]["confusion"], name
    raw = [r["baselines"]["raw features"]["measures"]["kmeans"]["confusion"] for r in (one, two)]
    assert raw[0] == raw[1]
    assert sorted(p.name for p in (copy / "panels").iterdir()) == sorted(p.name for p in (runs[1] / "panels").iterdir())


@pytest.mark.parametrize("processes", [1, 2])
def test_killed_and_resumed_ends_with_the_same_bits(prepared, tmp_path, processes):
    config = str(prepared / "config.yaml")
    settings = ["train.steps=400", "train.checkpoint_every=50", "train.log_every=100"]
    stego(processes, "train", config, f"run_dir={tmp_path / 'straight'}", *settings)
    broken = tmp_path / "broken"
    arguments = ["train", config, f"run_dir={broken}", *settings, "--resume"]
    process = subprocess.Popen(
        command(processes, *arguments), env=environment(), stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        deadline = time.monotonic() + 120
        while not list(broken.glob("checkpoints/step-*/state.json")):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        subprocess.run(["pkill", "-KILL", "-s", str(process.pid)], check=False)  # the launcher and its ranks
        process.wait()
    assert process.returncode == -signal.SIGKILL
    assert not (broken / "model.safetensors").exists()
    stego(processes, *arguments)
    straight, resumed = (load_file(run / "model.safetensors") for run in (tmp_path / "straight", broken))
    assert all(torch.equal(straight[key], resumed[key]) for key in straight)
    assert [line["step"] for line in lines(broken)] == [100, 200, 300, 400]


def test_processes_that_do_not_fit_the_groups(prepared, tmp_path):
    arguments = ["train", str(prepared / "config.yaml"), f"run_dir={tmp_path / 'run'}", "train.batch_size=4"]
    done = stego(2, *arguments, check=False)
    assert done.returncode != 0 and "with this batch use 1 process(es)" in done.stderr
