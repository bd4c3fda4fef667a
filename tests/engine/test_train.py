"""Training as one process: what it leaves behind, resuming, stopping, and what it refuses."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from stego_dist.config import load_config
from stego_dist.engine.inputs import share_of_rank
from stego_dist.engine.monitor import Monitor
from stego_dist.engine.train import SAVED, train
from stego_dist.errors import ConfigError, StaleInputError, UserError
from stego_dist.rundir import RunDir
from tests.tiny import build_shards, config_at, embed_and_search


def run_dir_of(config) -> RunDir:
    return RunDir(Path(config.run_dir))


def metrics(config) -> list[dict]:
    return [json.loads(line) for line in run_dir_of(config).metrics.read_text().splitlines()]


def weights(config) -> dict[str, torch.Tensor]:
    return load_file(run_dir_of(config).model)


def assert_same_weights(a, b) -> None:
    a, b = weights(a), weights(b)
    assert a.keys() == b.keys()
    for key in a:
        assert torch.equal(a[key], b[key]), key


@pytest.fixture(scope="module")
def undisturbed(prepared):
    config = config_at(prepared, f"run_dir={prepared / 'undisturbed'}")
    assert train(config) == 0
    return config


def test_a_run_is_the_whole_record(undisturbed):
    run = run_dir_of(undisturbed)
    assert [line["step"] for line in metrics(undisturbed)] == list(range(1, 7))
    assert json.loads(run.status.read_text())["state"] == "done"
    assert sorted(p.name for p in run.checkpoints.iterdir()) == ["step-00000004", "step-00000006"]
    assert load_config(run.config) == undisturbed
    assert set(json.loads(run.provenance.read_text())["inputs"]) >= {"shards", "backbone weights"}
    norms = torch.from_numpy(np.linalg.norm(weights(undisturbed)["kmeans"].numpy(), axis=1))
    torch.testing.assert_close(norms, torch.ones(2))


def test_training_learns(prepared):
    config = config_at(prepared, f"run_dir={prepared / 'learns'}", "train.steps=80")
    train(config)
    lines = metrics(config)
    for name in ("loss/linear", "loss/correspondence"):
        first, last = (np.mean([line[name] for line in part]) for part in (lines[:20], lines[-20:]))
        assert last < first, name


def test_the_same_seed_gives_the_same_weights_and_another_does_not(prepared, undisturbed):
    again = config_at(prepared, f"run_dir={prepared / 'again'}")
    train(again)
    assert_same_weights(again, undisturbed)
    other = config_at(prepared, f"run_dir={prepared / 'other'}", "seed=1")
    train(other)
    assert not torch.equal(weights(other)["head.linear.weight"], weights(again)["head.linear.weight"])


@pytest.mark.parametrize("features", ["bank", "online"])
def test_resume_is_bit_identical(prepared, tmp_path, features):
    straight = config_at(prepared, f"run_dir={tmp_path / 'straight'}", f"train.features={features}")
    train(straight)
    broken = config_at(prepared, f"run_dir={tmp_path / 'broken'}", f"train.features={features}", "train.steps=3")
    train(broken)
    resumed = config_at(prepared, f"run_dir={tmp_path / 'broken'}", f"train.features={features}", "train.steps=6")
    assert train(resumed, resume=True) == 0
    assert_same_weights(resumed, straight)
    keys = {"loss/total", "loss/linear", "step"}
    assert [{k: line[k] for k in keys} for line in metrics(resumed)] == [
        {k: line[k] for k in keys} for line in metrics(straight)
    ]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_saves_and_resume_ends_the_same(prepared, tmp_path, undisturbed, monkeypatch, number):
    config = config_at(prepared, f"run_dir={tmp_path / 'stopped'}")
    log = Monitor.step

    def signal_in_step_3(self, *args):
        log(self, *args)
        if self.state.step == 2:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(Monitor, "step", signal_in_step_3)
    assert train(config) == SAVED == 75
    status = json.loads(run_dir_of(config).status.read_text())
    assert (status["state"], status["step"], status["exit_code"]) == ("saved", 3, 75)
    monkeypatch.undo()
    assert train(config, resume=True) == 0
    assert_same_weights(config, undisturbed)


def test_a_truncated_newest_checkpoint_falls_back(prepared, tmp_path, undisturbed, capsys):
    config = config_at(prepared, f"run_dir={tmp_path / 'run'}")
    train(config)
    file = run_dir_of(config).checkpoints / "step-00000006" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    assert train(config, resume=True) == 0
    assert "step-00000006 is damaged" in capsys.readouterr().err
    assert_same_weights(config, undisturbed)
    assert [line["step"] for line in metrics(config)] == list(range(1, 7))


def test_online_and_bank_give_the_same_losses(prepared, tmp_path, undisturbed):
    online = config_at(prepared, f"run_dir={tmp_path / 'online'}", "train.features=online")
    train(online)
    for a, b in zip(metrics(online), metrics(undisturbed), strict=True):
        for key in ("loss/self", "loss/knn", "loss/random", "loss/linear", "loss/cluster"):
            assert a[key] == pytest.approx(b[key], abs=3e-3), key


def test_without_labels(tmp_path):
    build_shards(tmp_path, labels=False)
    config = config_at(tmp_path, "clusters.count=3")
    embed_and_search(config)
    assert train(config) == 0
    assert not any(key.startswith("linear") for key in weights(config))
    assert "loss/linear" not in metrics(config)[-1]
    nameless = config_at(tmp_path, f"run_dir={tmp_path / 'nameless'}")
    with pytest.raises(ConfigError, match=r"clusters\.count: .* has no classes"):
        train(nameless)


def test_two_runs_are_not_mixed(prepared, tmp_path):
    config = config_at(prepared, f"run_dir={tmp_path / 'run'}", "train.steps=2")
    train(config)
    with pytest.raises(UserError, match="already holds a run; continue it with --resume"):
        train(config)
    other = config_at(prepared, f"run_dir={tmp_path / 'run'}", "head.code_dim=5")
    with pytest.raises(StaleInputError, match=r"head\.code_dim: made with 6, now 5"):
        train(other, resume=True)
    assert train(other, overwrite=True) == 0
    assert weights(other)["head.linear.weight"].shape[0] == 5
    assert [line["step"] for line in metrics(other)] == list(range(1, 7))


def test_stale_inputs_are_refused_by_name(workspace):
    changed = config_at(workspace, "backbone.feature=keys")
    with pytest.raises(StaleInputError, match=r"KNN table .*\n.*backbone\.feature: made with 'feat', now 'keys'"):
        train(changed)
    status = json.loads(run_dir_of(changed).status.read_text())
    assert status["state"] == "failed" and "backbone.feature" in status["error"]
    with pytest.raises(StaleInputError, match=r"knn\.k: made with 5, now 6"):
        train(config_at(workspace, "knn.k=6"))


def test_missing_inputs_say_how_to_make_them(workspace):
    manifest = workspace / "features" / "manifest.json"
    told = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**told, "bytes": {k: v for k, v in told["bytes"].items() if k != "bank"}}))
    with pytest.raises(UserError, match="holds no dense features; run `stego-dist features"):
        train(config_at(workspace))
    with pytest.raises(UserError, match=r"KNN table not found: .*stego-dist knn build"):
        train(config_at(workspace, f"features.dir={workspace / 'nowhere'}"))
    with pytest.raises(UserError, match="shards build"):
        train(config_at(workspace, f"data.shards={workspace / 'nowhere'}"))


def test_a_loss_that_is_not_finite(workspace):
    for file in sorted((workspace / "features").glob("*.bank.npy"))[:1]:
        np.load(file, mmap_mode="r+")[:] = np.nan
    with pytest.raises(UserError, match=r"loss of step 1 is not finite \(total nan"):
        train(config_at(workspace))
    skipping = config_at(workspace, "train.non_finite=skip", "train.steps=2")
    with pytest.raises(UserError, match="codes are not finite"):  # k-means meets the same features at the end
        train(skipping)
    lines = metrics(skipping)
    assert lines[-1]["skipped"] == 2 and len(lines) == 2


def test_groups_must_fit_the_processes(prepared):
    config = config_at(prepared)
    assert share_of_rank(config, 1, 2) == (range(4, 8), range(1, 2))
    with pytest.raises(ConfigError, match="2 group.s. of 4 .* 3 processes can't share; with this batch use 1 or 2"):
        share_of_rank(config, 0, 3)


def test_fp16_needs_a_gpu(prepared, tmp_path):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(UserError, match="fp16 needs a GPU"):
        train(config_at(prepared, f"run_dir={tmp_path / 'half'}", "train.precision=fp16"))


def test_bfloat16_follows_float32(prepared, tmp_path, undisturbed):
    config = config_at(prepared, f"run_dir={tmp_path / 'bf16'}", "train.precision=bf16", "train.features=online")
    train(config)
    for a, b in zip(metrics(config), metrics(undisturbed), strict=True):
        assert a["loss/total"] == pytest.approx(b["loss/total"], abs=0.03)


def test_contrastive_crf_term_is_trained_online(prepared, tmp_path):
    config = config_at(
        prepared, f"run_dir={tmp_path / 'crf'}", "train.features=online", "loss.contrastive_crf_weight=0.5",
        "train.steps=2",
    )  # fmt: skip
    train(config)
    line = metrics(config)[-1]
    parts = line["loss/correspondence"] + line["loss/cluster"] + line["loss/linear"]
    assert line["loss/total"] == pytest.approx(parts + 0.5 * line["loss/contrastive_crf"], rel=1e-4)
