"""The space of a sweep: what is refused, what is drawn, which points a grid has."""

from __future__ import annotations

import math

import numpy as np
import pytest
import yaml

from stego_dist.errors import ConfigError
from stego_dist.jobs.sweep.kinds import KINDS, read_kind
from stego_dist.jobs.sweep.space import DEFAULT, Space, load_space, read_space, with_values
from tests.tiny import config_at

SPACE = {
    "loss.self_pair.shift": {"uniform": [0.0, 0.8]},
    "loss.self_pair.weight": {"loguniform": [0.01, 1]},
    "head.code_dim": {"int": [4, 10], "step": 3},
    "head.projection": {"choice": ["nonlinear", "linear"]},
}


@pytest.fixture
def base(tmp_path):
    return config_at(tmp_path)


def test_all_problems_are_listed_at_once(base, tmp_path):
    path = tmp_path / "space.yaml"
    path.write_text(
        yaml.safe_dump(
            {
                "loss.self_par.shift": {"uniform": [0, 1]},
                "train.stepps": {"int": [1, 3]},
                "seed": 3,
                "train.lr_head": {"loguniform": [0, 1]},
                "train.steps": {"uniform": [1, 100]},
                "loss.knn_pair.weight": {"uniform": [-1, 1]},
                "loss.knn_pair.shift": {"uniform": [1, 0]},
                "head.projection": {"choice": ["linear", "convolution", "attention"]},
                "head.dropout": {"choice": []},
                "run_dir": {"choice": ["a", "b"]},
                "train.batch_size": {"int": [8, 16], "stride": 4},
            }
        )
    )
    with pytest.raises(ConfigError) as error:
        load_space(path, base)
    lines = str(error.value).splitlines()
    assert lines[0] == f"{path} has 12 problems:"
    for expected in (
        "loss.self_par: no such key; did you mean self_pair?",
        "train.stepps: no such key; did you mean steps?",
        "seed: found 3, expected one of {uniform: […]}, {loguniform: […]}, {int: […]}, {choice: […]}, {grid: […]}.",
        "train.lr_head: starts at 0, expected a number above 0.",
        "loss.knn_pair.weight: found -1.0, expected a number of at least 0, or 'auto'.",
        "loss.knn_pair.shift: found [1, 0], expected two numbers [low, high], low below high.",
        "head.projection: found 'convolution', expected 'nonlinear', 'linear' or 'none'.",
        "head.projection: found 'attention', expected 'nonlinear', 'linear' or 'none'.",
        "head.dropout: found [], expected a list of values.",
        "run_dir: is set by the sweep, so it can't be varied.",
        "train.batch_size: found stride besides, expected nothing more.",
    ):
        assert f"  {expected}" in lines
    assert any(line.startswith("  train.steps: found") and "valid integer" in line for line in lines)


@pytest.mark.parametrize("text", ["- a\n", "", "a: [", "3"])
def test_what_is_no_space_is_refused(base, tmp_path, text):
    (tmp_path / "space.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"space\.yaml"):
        load_space(tmp_path / "space.yaml", base)
    with pytest.raises(ConfigError, match="No such file"):
        load_space(tmp_path / "none.yaml", base)


def test_a_draw_is_a_function_of_seed_and_number_and_key(base):
    space, fewer = read_space(SPACE, base, "here"), read_space(dict(list(SPACE.items())[2:]), base, "here")
    first = [space.random(7, n) for n in range(50)]
    assert first == [space.random(7, n) for n in range(50)] and first[0] != first[1]
    assert [space.random(8, n) for n in range(50)] != first
    for n in range(50):  # other keys don't change what a key draws
        assert fewer.random(7, n).items() <= first[n].items()


def test_draws_are_where_they_should_be(base):
    space = read_space(SPACE, base, "here")
    drawn = [space.random(0, n) for n in range(600)]
    shifts = np.array([values["loss.self_pair.shift"] for values in drawn])
    assert shifts.min() >= 0 and shifts.max() <= 0.8 and abs(shifts.mean() - 0.4) < 0.04
    logs = np.log10([values["loss.self_pair.weight"] for values in drawn])
    assert logs.min() >= -2 - 1e-9 and logs.max() <= 1e-9 and abs(logs.mean() + 1) < 0.1
    assert {values["head.code_dim"] for values in drawn} == {4, 7, 10}
    shares = np.mean([values["head.projection"] == "linear" for values in drawn])
    assert abs(shares - 0.5) < 0.07


def test_grids_are_crossed_and_repeat_each_draw(base):
    tree = {**SPACE, "seed": {"grid": [0, 1, 2]}, "knn.positives": {"grid": [1, 3]}}
    space = read_space(tree, base, "here")
    assert space.grid_size == 6
    trials = [space.random(0, n) for n in range(12)]
    pairs = [(values["seed"], values["knn.positives"]) for values in trials[:6]]
    assert pairs == [(0, 1), (0, 3), (1, 1), (1, 3), (2, 1), (2, 3)]
    assert len({values["loss.self_pair.shift"] for values in trials[:6]}) == 1
    assert trials[6]["loss.self_pair.shift"] != trials[0]["loss.self_pair.shift"]


def test_points_of_a_grid_search(base):
    tree = {"seed": {"grid": [5, 6]}, "head.code_dim": {"int": [4, 10], "step": 3}}
    points = read_space(tree, base, "here").points()
    assert points == [{"seed": s, "head.code_dim": c} for s in (5, 6) for c in (4, 7, 10)]
    with pytest.raises(ConfigError, match=r"--search grid .* loss\.self_pair\.shift \(uniform\), loss"):
        read_space(SPACE, base, "here").points()
    with pytest.raises(ConfigError, match="are too many"):
        read_space({"seed": {"int": [0, 999]}, "head.code_dim": {"int": [1, 999]}}, base, "here").points()


def test_a_trial_differs_in_the_sampled_keys_alone(base):
    values = Space(DEFAULT).random(0, 3)
    one, two = base.model_dump(mode="json"), with_values(base, values).model_dump(mode="json")
    for key, value in values.items():
        section, pair, last = key.split(".")
        assert two[section][pair][last] == value
        two[section][pair][last] = one[section][pair][last]
    assert one == two


def test_a_preset_replaces_the_coefficients_of_the_base(tmp_path):
    base = config_at(tmp_path, "loss.self_pair.shift=0.5")
    loss = with_values(base, {"loss.preset": "potsdam3_vits8", "loss.knn_pair.weight": 0.125}).loss
    assert (loss.self_pair.shift, loss.random_pair.shift, loss.knn_pair.weight) == (0.08, 0.46, 0.125)
    assert loss.points == base.loss.points


def test_a_space_survives_its_yaml(base):
    space = read_space({**SPACE, "seed": {"grid": [0, 1]}}, base, "here")
    again = read_space(yaml.safe_load(yaml.safe_dump(space.to_yaml())), base, "there")
    assert again.kinds == space.kinds and again.to_yaml() == space.to_yaml()


@pytest.mark.parametrize("word", KINDS)
def test_every_kind_agrees_with_optuna(word):
    values = {"uniform": [0.5, 2], "loguniform": [0.5, 2], "int": [3, 9], "choice": ["a", [1, 2]], "grid": ["a", None]}
    kind = read_kind({word: values[word]})
    distribution, rng = kind.distribution(), np.random.default_rng(0)
    for value in [kind.draw(rng) for _ in range(20)]:
        assert kind.from_optuna(kind.to_optuna(value)) == value
        assert distribution._contains(distribution.to_internal_repr(kind.to_optuna(value)))
    points = kind.points()
    assert points is None or len(points) == len(set(map(str, points)))
    if word == "loguniform":
        assert distribution.log and math.isclose(kind.probes()[0], 0.5)
