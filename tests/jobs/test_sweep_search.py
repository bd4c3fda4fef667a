"""Which values trials get, and what a sweep's folder keeps."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from stego_dist.errors import StaleInputError, UserError
from stego_dist.jobs.sweep.check import check
from stego_dist.jobs.sweep.plan import POINTS, SCREEN, Folder, Plan, Result, begin, read_plan, trial_config
from stego_dist.jobs.sweep.search import count, known_values, propose
from stego_dist.jobs.sweep.space import DEFAULT, Space, read_space
from stego_dist.jobs.sweep.tell import best_of
from tests.tiny import build_shards, config_at


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("sweep")
    build_shards(root)
    return root


@pytest.fixture
def plan(root) -> Plan:
    return Plan(config_at(root, "train.validate_every=2"), Space(DEFAULT), trials=6)


def reached(values) -> float:
    return -((values["loss.self_pair.shift"] - 0.6) ** 2)


def searched(plan: Plan, trials: int, results: dict[int, Result]) -> dict[int, Result]:
    """One trial after the other, from where the results stand."""
    for n in range(len(results), trials):
        values = propose(plan, n, results, {})
        results[n] = Result(n, "done", values, objective=reached(values))
    return results


def test_optuna_repeats_itself_and_goes_on_as_it_would_have(plan):
    plan = replace(plan, search="optuna")
    whole = searched(plan, 16, {})
    again = searched(plan, 16, {n: whole[n] for n in range(11)})
    assert again == whole
    assert searched(replace(plan, seed=1), 3, {})[0].values != whole[0].values
    shifts = [result.values["loss.self_pair.shift"] for result in whole.values()]
    assert len(set(shifts)) == 16


def test_optuna_learns(plan):
    plan = replace(plan, search="optuna")
    found = searched(plan, 50, {})
    late = [reached(found[n].values) for n in range(30, 50)]
    early = [reached(found[n].values) for n in range(10)]
    assert sum(late) / 20 > sum(early) / 10


def test_optuna_knows_stopped_failed_and_running_trials(plan):
    plan = replace(plan, search="optuna")
    results = searched(plan, 12, {})
    results[12] = Result(12, "stopped", results[3].values, objective=0.1, curve=[(2, 0.05), (4, 0.1)])
    results[13] = Result(13, "failed", results[4].values, reason="died")
    running = {14: propose(plan, 14, results, {})}
    assert propose(plan, 15, results, running) != propose(plan, 15, results, {})


def test_counts(plan):
    crossed = read_space({**Space(DEFAULT).to_yaml(), "seed": {"grid": [0, 1, 2]}}, plan.base, "here")
    assert count(replace(plan, space=crossed), 4) == 12
    assert count(replace(plan, space=crossed), None) == 96
    grid = read_space({"seed": {"grid": [0, 1, 2]}, "knn.positives": {"choice": [1, 3]}}, plan.base, "here")
    gridded = replace(plan, space=grid, search="grid")
    assert count(gridded, None) == 6 and count(gridded, 4) == 4
    assert known_values(replace(gridded, trials=4))[3] == {"seed": 1, "knn.positives": 3}
    assert known_values(replace(plan, search="optuna")) is None


def test_contradictions_are_named_together(plan, root):
    space = read_space({"seed": {"grid": [0, 1]}}, plan.base, "here")
    base = config_at(root, "train.validate_every=0")
    with pytest.raises(UserError) as error:
        check(Plan(base, space, search="optuna", early_stop="asha", grace=9, reduction=1.0, processes=3))
    text = str(error.value)
    for expected in ("seed is a grid; make it a choice", "--early-stop asha looks at validations", "--reduction 1",
                     "--grace 9: expected 1 to train.steps=6", "--processes 3: 2 group(s)"):  # fmt: skip
        assert expected in text
    elsewhere = replace(plan, base=config_at(root, "data.eval_split=test"))
    check(elsewhere)  # the score looks at training images
    with pytest.raises(UserError, match="--objective miou needs labels, which split test of"):
        check(replace(elsewhere, objective="miou"))


def test_values_that_are_impossible_together_are_named_before_anything_starts(plan):
    tree = {"train.batch_size": {"choice": [4, 8]}, "train.accumulate": {"choice": [1, 2]}}
    space = read_space(tree, plan.base, "here")  # each alone is possible: the base has batches of 8
    with pytest.raises(UserError, match=r"trial 1: the configuration with train\.batch_size=4, train\.accumulate=2"):
        check(Plan(plan.base, space, search="grid", trials=4))


def test_labels_must_be_there_to_be_the_objective(tmp_path):
    build_shards(tmp_path, labels=False)
    base = config_at(tmp_path, "clusters.count=2")
    check(Plan(base, Space(DEFAULT)))
    with pytest.raises(UserError, match="--objective miou needs labels, which split val of .* has not"):
        check(Plan(base, Space(DEFAULT), objective="miou"))


def test_a_plan_is_kept_and_another_is_refused(plan, tmp_path):
    folder = Folder(tmp_path / "sweep")
    begin(plan, folder, resume=False, overwrite=False)
    known = read_plan(folder)
    assert known.to_yaml() == plan.to_yaml() and known.base == plan.base
    assert [known.space.random(0, n) for n in range(6)] == [plan.space.random(0, n) for n in range(6)]
    with pytest.raises(UserError, match="already holds a sweep; continue it with --resume"):
        begin(plan, folder, resume=False, overwrite=False)
    begin(replace(plan, trials=9), folder, resume=True, overwrite=False)  # more trials are fine
    assert read_plan(folder).trials == 9
    with pytest.raises(StaleInputError, match=r"seed: made with 0, now 1"):
        begin(replace(plan, seed=1), folder, resume=True, overwrite=False)
    folder.write_result(Result(0, "failed", {}, reason="died"))
    begin(replace(plan, seed=1), folder, resume=False, overwrite=True)
    assert folder.results() == {} and read_plan(folder).seed == 1
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").touch()
    with pytest.raises(UserError, match="holds files that are no sweep's"):
        begin(plan, Folder(tmp_path / "photos"), resume=False, overwrite=True)


def test_a_result_is_written_once_and_read_as_it_was(plan, tmp_path):
    folder = Folder(tmp_path / "sweep")
    values = plan.space.random(0, 2)
    config = trial_config(plan, folder, 2, values)
    folder.write_trial(2, values, config)
    assert folder.values(2) == values and folder.values(3) is None
    assert config.run_dir == str(folder.run(2).root)
    result = Result(2, "done", values, 0.25, 6, {"miou": 0.5}, [(2, 0.125), (4, 0.25)], ["codes agree"], None, 1.5, 9.0)
    folder.write_result(result)
    folder.write_result(replace(result, state="failed"))
    assert folder.results() == {2: result}


def test_trials_cluster_fewer_codes_unless_that_is_set_or_sampled(plan, tmp_path):
    folder, values = Folder(tmp_path / "sweep"), plan.space.random(0, 0)

    def of(sampled: dict[str, Any], **clusters: Any) -> tuple[int, int | None]:
        base = plan.base.model_copy(update={"clusters": plan.base.clusters.model_copy(update=clusters)})
        found = trial_config(replace(plan, base=base), folder, 0, {**values, **sampled}).clusters
        return found.points, found.screen

    assert of({}) == (POINTS, SCREEN) and of({}, points=900, screen=800) == (900, 800)
    assert of({"clusters.points": 10**6, "clusters.screen": None}) == (10**6, None)
    assert plan.base.clusters.screen is None


def test_a_collapsed_trial_is_the_best_only_among_such():
    def done(n: int, objective: float, *warnings: str) -> Result:
        return Result(n, "done", {}, objective=objective, warnings=list(warnings))

    results = {0: done(0, 0.2), 1: done(1, 0.9, "the codes collapse"), 2: done(2, 0.4), 3: done(3, 0.4)}
    assert best_of(results).trial == 2
    assert best_of({0: done(0, 0.1, "x"), 1: done(1, 0.3, "x")}).trial == 1
    assert best_of({0: Result(0, "failed", {}, reason="died")}) is None
