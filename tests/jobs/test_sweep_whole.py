"""A sweep by its command: what is missing is built, SIGTERM saves, --resume goes on, the best can be trained."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from pathlib import Path

import pytest
import yaml

from stego_dist.cli import main
from stego_dist.errors import UserError
from stego_dist.jobs.sweep.drive import Resources, _fit
from stego_dist.jobs.sweep.plan import Folder
from tests.jobs.sweeping import plan_at
from tests.launching import command, environment
from tests.tiny import TREE, build_shards, config_at

pytestmark = pytest.mark.ray
SPACE = {
    "loss.self_pair.shift": {"uniform": [0.0, 0.8]},
    "knn.k": {"grid": [4, 5]},  # needs a table for each
    "train.lr_head": {"loguniform": [1e-4, 1e-2]},
}


@pytest.fixture
def root(tmp_path, monkeypatch) -> Path:
    build_shards(tmp_path)
    config_at(tmp_path, train={**TREE["train"], "validate_every": 2, "panels": 1, "steps": 8})
    (tmp_path / "space.yaml").write_text(yaml.safe_dump(SPACE))
    monkeypatch.chdir(tmp_path)
    return tmp_path


ARGUMENTS = ["sweep", "config.yaml", "--space", "space.yaml", "--trials", "3", "--concurrent", "1", "--out", "found"]


def test_from_shards_to_the_best_with_a_stop_between(root, capsys):
    assert main([*ARGUMENTS, "--dry-run"]) == 0
    foreseen = capsys.readouterr().out
    assert "6 trials of 8 steps: 48 steps" in foreseen and foreseen.count("are built first") == 2
    assert not (root / "found").exists()

    folder = Folder(root / "found")
    swept = subprocess.Popen(command(1, *ARGUMENTS), env=environment(), stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + 240
    while not folder.results():
        assert time.monotonic() < end and swept.poll() is None, swept.stderr.read()
        time.sleep(0.02)
    swept.send_signal(signal.SIGTERM)
    said = swept.communicate()[1]
    assert swept.returncode == 75, said
    assert "go on with the same command and --resume" in said
    before = {n: folder.result(n).stat().st_ino for n in folder.results()}
    assert 0 < len(before) < 6

    assert main(ARGUMENTS) == 1  # it is there already
    assert "continue it with --resume" in capsys.readouterr().err
    assert main([*ARGUMENTS, "--resume", "--json"]) == 0
    printed = capsys.readouterr()
    found = json.loads(printed.out)
    assert found == json.loads((root / "found" / "sweep.json").read_text())
    assert found["counts"]["done"] == 6 and found["uses_labels"] is False
    assert {n: folder.result(n).stat().st_ino for n in before} == before
    tables = {yaml.safe_load(folder.config(n).read_text())["features"]["dir"] for n in range(6)}
    assert len(tables) == 2
    html = (root / "found" / "sweep.html").read_text()
    assert html.count('<polyline class="trial ') == 6 and html.count("data:image/webp") == 6  # image, label, 4 trials

    assert main([*ARGUMENTS, "--resume"]) == 0  # nothing is left to do
    assert "6 of 6 trials finished" in " ".join(capsys.readouterr().out.split())
    assert main(["train", "found/best.yaml"]) == 0
    best = found["trials"][found["best"]]
    run = yaml.safe_load((root / "found" / "best.yaml").read_text())["run_dir"]
    values = yaml.safe_load((Path(run) / "config.yaml").read_text())
    assert values["loss"]["self_pair"]["shift"] == best["values"]["loss.self_pair.shift"]


def test_mistakes_are_named_before_anything_starts(root, capsys):
    assert main(["sweep", "config.yaml", "--search", "grid"]) == 2
    assert "--search grid needs keys with values that can be counted" in capsys.readouterr().err
    (root / "space.yaml").write_text("head.codedim: {int: [3, 9]}\n")
    assert main(ARGUMENTS) == 2
    assert "head.codedim: no such key; did you mean code_dim?" in capsys.readouterr().err
    (root / "space.yaml").write_text("knn.min_similarity: {uniform: [0.1, 0.5]}\n")
    assert main(ARGUMENTS) == 2
    assert "knn.min_similarity: every value needs features and a neighbour table" in capsys.readouterr().err
    assert not (root / "found").exists()


def test_trials_that_have_no_place_are_named(root):
    class Cluster:
        @staticmethod
        def nodes():
            return [{"Alive": True, "Resources": {"CPU": 4.0}}, {"Alive": True, "Resources": {"CPU": 1.0}}]

    plan = plan_at(root)
    with pytest.raises(UserError, match=r"--gpus 0\.5: the Ray cluster has no GPU"):
        _fit(Cluster, plan, Resources(gpus=0.5))
    with pytest.raises(UserError, match=r"no node of the Ray cluster has the 8 CPU\(s\)"):
        _fit(Cluster, plan, Resources(cpus=8))
    assert _fit(Cluster, plan, Resources(cpus=2)) == (2, 0.0)
    assert _fit(Cluster, plan, Resources(concurrent=1)) == (1, 0.0)
