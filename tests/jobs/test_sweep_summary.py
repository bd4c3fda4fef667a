"""What a sweep's end says: the best, rank correlations, importance, files; and what is seen on the way."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from scipy.stats import kruskal, spearmanr

from stego_dist.config import load_config
from stego_dist.errors import UserError
from stego_dist.jobs.sweep.plan import Folder, Plan, Result, begin
from stego_dist.jobs.sweep.space import DEFAULT, Space, read_space
from stego_dist.jobs.sweep.summary import conclude, correlations, importance
from stego_dist.jobs.sweep.tell import scoreboard
from tests.tiny import config_at


def made_at(root, trials: int = 40, labels: bool = True, **more) -> tuple[Plan, Folder, dict[int, Result]]:
    """A sweep whose objective is the self pair's shift, nearly; some collapsed, stopped or failed."""
    plan = Plan(config_at(root), Space(DEFAULT), trials=trials, **more)
    folder, rng, results = Folder(root / "sweep"), np.random.default_rng(0), {}
    begin(plan, folder, resume=False, overwrite=False)
    for n in range(trials):
        values = plan.space.random(0, n)
        score = values["loss.self_pair.shift"]
        numbers = {"val/label_free": score, "seconds/train": 1.0 + n}
        if labels:
            numbers |= {"miou": score**2 + 0.05 * rng.random(), "accuracy": 1 - score}
        results[n] = Result(
            n, "done", values, score, 6, numbers, [(3, score / 2), (6, score)], [], None, 2.0, 100.0 - n
        )
    results[3] = Result(3, "failed", results[3].values, reason="its worker died, twice")
    results[4] = Result(4, "stopped", results[4].values, 2.0, 3, {}, [(3, 2.0)], ["all codes agree"])
    for result in results.values():
        folder.write_result(result)
    return plan, folder, results


def test_the_best_is_a_configuration_that_can_be_trained(tmp_path):
    plan, folder, results = made_at(tmp_path)
    found = conclude(plan, folder)
    done = [n for n in results if results[n].state == "done"]
    best = max(done, key=lambda n: results[n].objective)
    assert found["best"] == best != 4 and found["counts"] == {"done": 38, "stopped": 1, "failed": 1, "collapsed": 1}
    text = (folder.root / "best.yaml").read_text()
    assert text.startswith(f"# Trial {best} of 40, the best by label-free score: ") and "chosen without labels" in text
    config = load_config(folder.root / "best.yaml")
    assert config.loss.self_pair.shift == results[best].values["loss.self_pair.shift"]
    assert config.run_dir == plan.base.run_dir + "_best" and config.name == plan.base.name
    assert config.model_copy(update={"run_dir": plan.base.run_dir, "loss": plan.base.loss}) == plan.base
    assert json.loads((folder.root / "sweep.json").read_text()) == json.loads(json.dumps(found))


def test_the_table_has_every_trial_and_number(tmp_path):
    plan, folder, results = made_at(tmp_path)
    conclude(plan, folder)
    with (folder.root / "trials.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["trial"]) for row in rows] == list(range(40))
    assert list(rows[0])[-2:] == ["seconds/train", "seconds"]  # times come last
    for row in rows:
        result = results[int(row["trial"])]
        assert row["state"] == result.state and row["reason"] == (result.reason or "")
        assert row["objective"] == ("" if result.objective is None else str(result.objective))
        assert float(row["loss.knn_pair.weight"]) == result.values["loss.knn_pair.weight"]
        assert row["miou"] == (str(result.numbers["miou"]) if "miou" in result.numbers else "")
    assert [row["collapsed"] for row in rows].count("1") == 1


def test_rank_correlations_are_over_finished_trials_with_labels(tmp_path):
    _, _, results = made_at(tmp_path)
    found = correlations(results)
    done = [r.numbers for r in results.values() if r.state == "done"]
    expected = spearmanr([n["val/label_free"] for n in done], [n["miou"] for n in done]).statistic
    assert found["miou"] == {"spearman": pytest.approx(expected), "trials": 38}
    assert found["accuracy"]["spearman"] == pytest.approx(-1.0)
    assert correlations({n: results[n] for n in (0, 1)}) == {}
    constant = {n: Result(n, "done", {}, 1.0, numbers={"val/label_free": 1.0, "miou": n / 9}) for n in range(5)}
    assert correlations(constant) == {}


def test_importance_finds_what_matters(tmp_path):
    plan, _, results = made_at(tmp_path)
    found = importance(plan, results)
    assert found["trials"] == 38
    groups = [list(part) for part in np.array_split(np.sort(list(range(38))), 4)]
    assert found["shares"]["loss.self_pair.shift"] == pytest.approx((kruskal(*groups).statistic - 3) / 34, abs=0.03)
    assert max(found["shares"], key=found["shares"].get) == "loss.self_pair.shift"
    assert sorted(found["shares"].values())[-2] < 0.3 * found["shares"]["loss.self_pair.shift"]
    few = importance(plan, {n: results[n] for n in range(3)})
    assert few["shares"] is None and few["why"] == "at least 8 finished trials are needed"
    same = {n: Result(n, "done", result.values, 0.5) for n, result in results.items()}
    assert importance(plan, same)["why"] == "all trials reached the same"


def test_importance_takes_every_kind(tmp_path):
    tree = {
        "head.projection": {"choice": ["nonlinear", "linear"]}, "seed": {"grid": [0, 1]},
        "head.code_dim": {"int": [4, 8]}, "eval.flip": {"choice": [True]},
    }  # fmt: skip
    base = config_at(tmp_path)
    plan = Plan(base, read_space(tree, base, "here"))
    drawn = {n: plan.space.random(0, n) for n in range(40)}
    results = {n: Result(n, "done", v, float(v["head.projection"] == "linear") + n / 1e4) for n, v in drawn.items()}
    shares = importance(plan, results)["shares"]
    assert shares.keys() == tree.keys() and shares["eval.flip"] == 0
    assert shares["head.projection"] > 0.6 and shares["head.code_dim"] < 0.2 and shares["seed"] < 0.2


def test_an_objective_with_labels_says_so(tmp_path):
    plan, folder, _ = made_at(tmp_path, objective="miou")
    found = conclude(plan, folder)
    assert found["uses_labels"] is True
    assert "labels of the evaluation split were used to choose it" in (folder.root / "best.yaml").read_text()


def test_nothing_finished_is_an_error_with_the_reason(tmp_path):
    plan = Plan(config_at(tmp_path), Space(DEFAULT), trials=2)
    folder = Folder(tmp_path / "sweep")
    begin(plan, folder, resume=False, overwrite=False)
    for n in range(2):
        folder.write_result(Result(n, "failed", plan.space.random(0, n), reason="the disk is full"))
    with pytest.raises(UserError, match="none of the 2 trials of .* was finished; most often: the disk is full"):
        conclude(plan, folder)


def test_lines_in_a_log(tmp_path, capsys):
    plan, _, results = made_at(tmp_path, trials=6)
    with scoreboard(plan, {0: results[0]}) as board:
        board.start(1, results[1].values)
        board.report(1, 3, 0.25)
        board.lost(1, "its worker died", again=True)
        board.start(1, results[1].values)
        board.finish(results[1])
        board.finish(results[4])
    said = capsys.readouterr().err
    assert said.count("trial 1 begins: loss.self_pair.weight=0.5398, loss.self_pair.shift=0.5158") == 2
    assert "warning: trial 1 failed, it is tried again: its worker died" in said
    assert "trial 1: label_free 0.5158, 2 s; 2/6 trials · best 0.5158 (trial 1) · ETA" in said
    assert "trial 4: label_free 2.0000, stopped at step 3, collapsed, 0 s; 3/6 trials · best 0.5158" in said


def test_a_live_table(tmp_path, monkeypatch):
    from rich.console import Console

    from stego_dist import console

    plan, _, results = made_at(tmp_path, trials=6)
    terminal = Console(force_terminal=True, width=160, record=True)
    monkeypatch.setattr(console, "err", terminal)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    with scoreboard(plan, results) as board:
        board.start(5, results[5].values)
        board.report(5, 3, 0.125)
    shown = terminal.export_text()
    for expected in ("running", "label-free score", "self_pair.shift", "0.125", "6/6 trials"):
        assert expected in shown
