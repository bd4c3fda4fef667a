"""What is seen of a run: TensorBoard, other trackers, the panel of a terminal, a profiler's trace."""

from __future__ import annotations

import gzip
import io
import json
import sys
from pathlib import Path

import pytest
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from stego_dist import console
from stego_dist.engine import live
from stego_dist.engine.train import train
from stego_dist.errors import ConfigError, UserError
from stego_dist.rundir import read_metrics
from tests.tiny import config_at

NUMBERS = {
    "loss/total": 0.9, "loss/correspondence": 0.123, "loss/cluster": -0.4, "loss/linear": 1.5,
    "loss/self": -0.11, "loss/knn": -0.22, "loss/random": 0.33,
    "code_correlation/self": 0.41, "code_correlation/knn": 0.32, "code_correlation/random": 0.13,
    "above_shift/self": 0.44, "above_shift/knn": 0.36, "above_shift/random": 0.08,
    "steps_per_s": 3.5, "images_per_s": 56.0, "data_wait_share": 0.04, "memory_gb": 1.25, "skipped": 2,
}  # fmt: skip


def test_tensorboard_continues_without_duplicates(prepared, tmp_path):
    settings = ["train.trackers=[tensorboard]", "train.validate_every=2"]
    run = tmp_path / "run"
    for steps in (5, 8):
        config = config_at(prepared, f"run_dir={run}", *settings, f"train.steps={steps}")
        assert train(config, resume=True) == 0
        for newest in sorted((run / "checkpoints").iterdir())[-1:] if steps == 5 else ():
            (newest / "model.safetensors").write_bytes(b"")  # so that steps 5 is written twice
    events = EventAccumulator(str(run / "tensorboard")).Reload()
    assert [e.step for e in events.Scalars("loss/total")] == list(range(1, 9))
    assert [e.step for e in events.Scalars("val/label_free")] == [2, 4, 6, 8]
    lines = [line for line in read_metrics(run / "metrics.jsonl") if "loss/total" in line]
    assert [e.value for e in events.Scalars("loss/total")] == pytest.approx([line["loss/total"] for line in lines])


def test_a_tracker_of_accelerates(prepared, tmp_path, monkeypatch):
    """A module that stands in for wandb gets what Accelerate's tracker hands it."""
    (tmp_path / "wandb.py").write_text(
        "calls = []\n"
        "class Run:\n"
        "    def log(self, values, step=None, **more): calls.append(('log', step, values))\n"
        "    def finish(self): calls.append(('finish',))\n"
        "class config:\n"
        "    @staticmethod\n"
        "    def update(values, **more): calls.append(('config', values))\n"
        "def init(**arguments): calls.append(('init', arguments)); return Run()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    config = config_at(prepared, f"run_dir={tmp_path / 'run'}", "train.trackers=[wandb]", "train.steps=2")
    assert train(config) == 0
    calls = sys.modules["wandb"].calls
    assert [call[0] for call in calls] == ["init", "config", "log", "log", "finish"]
    assert calls[0][1] == {"project": "stego_dist", "name": "tiny", "dir": str(tmp_path / "run")}
    assert calls[1][1]["loss.random_pair.shift"] == config.loss.random_pair.shift
    assert [call[1] for call in calls[2:4]] == [1, 2] and "loss/total" in calls[2][2]
    monkeypatch.delitem(sys.modules, "wandb")


def test_a_missing_tracker_names_its_package(prepared, tmp_path):
    with pytest.raises(UserError, match=r"comet_ml needs a package that is not installed: pip install comet-ml;"):
        train(config_at(prepared, f"run_dir={tmp_path / 'run'}", "train.trackers=[comet_ml]"))
    with pytest.raises(ConfigError, match=r"train\.trackers\.0: found 'tensorbord', expected 'tensorboard', 'wandb'"):
        config_at(prepared, "train.trackers=[tensorbord]")


def test_the_panel_of_a_terminal_shows_what_matters(monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr(console, "err", Console(file=stream, force_terminal=True, width=120))
    monkeypatch.setattr(live.sys, "stderr", type("Tty", (), {"isatty": lambda self: True})())
    monkeypatch.delenv("RANK", raising=False)
    with live.training_view(50, 20) as view:
        view.advance()
        view.show(NUMBERS)
        view.note("validation", "step 20: mIoU 31.0%")
        view.note("checkpoint", "checkpoints/step-00000020")
    shown = stream.getvalue()
    for text in (
        "21/50", "ETA", "-0.1100", "0.410", "44%", "0.130", "8%", "linear 1.5000", "3.50 steps/s", "56.0 images/s",
        "data wait 4%", "memory 1.2 GB", "skipped 2", "mIoU 31.0%", "step-00000020",
    ):  # fmt: skip
        assert text in shown, text


def test_lines_of_a_log_keep_the_numbers_between_moments_of_logging(prepared, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(console, "PLAIN_INTERVAL_S", 0.0)
    train(config_at(prepared, f"run_dir={tmp_path / 'run'}", "train.log_every=3"))
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("train ")]
    assert len(lines) == 6 and "loss" not in lines[1] and "correspondence" in lines[2]
    for line in lines[2:]:
        assert all(word in line for word in ("steps/s", "ETA", "code correlation", "above shift", "images/s", "memory"))


def test_a_profile_covers_the_steps_it_names(prepared, tmp_path):
    config = config_at(prepared, f"run_dir={tmp_path / 'run'}", "train.profile=2", "train.steps=9")
    assert train(config) == 0
    (path,) = (tmp_path / "run" / "profile").iterdir()
    assert path.name == "steps-00000006-00000007.json.gz"
    events = json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]
    steps = {e["name"] for e in events if e.get("name", "").startswith("ProfilerStep#")}
    assert len(steps) == 2 and any("Adam" in e.get("name", "") for e in events)


def test_metrics_have_a_gradient_norm_and_memory(prepared, tmp_path):
    train(config_at(prepared, f"run_dir={tmp_path / 'run'}", "train.steps=1"))
    (line,) = read_metrics(Path(tmp_path / "run" / "metrics.jsonl"))
    assert line["gradient_norm"] > 0 and 0.05 < line["memory_gb"] < 50
