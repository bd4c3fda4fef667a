"""Which values a trial gets: at random, at a point of a grid, or proposed by Optuna from what is known.

Random and grid values are a function of (seed, n). Optuna's are one of (seed, n) and of what the trials before have
reached, so with one trial at a time they can be repeated too, and a sweep that is resumed goes on as it would have.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import optuna
from optuna.trial import FrozenTrial, TrialState

from stego_dist.jobs.sweep.plan import Plan, Result
from stego_dist.jobs.sweep.space import Space, Values

STARTUP = 10
"""Trials of an Optuna search that are drawn at random before it models anything."""
STATES = {"done": TrialState.COMPLETE, "stopped": TrialState.PRUNED, "failed": TrialState.FAIL}

optuna.logging.set_verbosity(optuna.logging.ERROR)


def count(plan: Plan, trials: int | None) -> int:
    """Trials of a sweep where so many draws are asked for: all points of a grid; at random, draws × crossed grids."""
    if plan.search == "grid":
        points = len(plan.space.points())
        return points if trials is None else min(trials, points)
    return (trials or 32) * (plan.space.grid_size if plan.search == "random" else 1)


def known_values(plan: Plan) -> list[Values] | None:
    """The values of all trials, None where they depend on what is found."""
    if plan.search == "optuna":
        return None
    return plan.space.points()[: plan.trials] if plan.search == "grid" else [
        plan.space.random(plan.seed, n) for n in range(plan.trials)
    ]  # fmt: skip


def propose(plan: Plan, n: int, results: Mapping[int, Result], running: Mapping[int, Values]) -> Values:
    """The values of trial n, given what became of others and what is running."""
    if plan.search == "random":
        return plan.space.random(plan.seed, n)
    if plan.search == "grid":
        return plan.space.points()[n]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        sampler = optuna.samplers.TPESampler(
            seed=int(np.random.default_rng([plan.seed, n]).integers(2**31)),
            n_startup_trials=STARTUP, multivariate=True, constant_liar=True,
        )  # fmt: skip
        study = study_of(plan.space, results, sampler=sampler)
        for values in running.values():
            study.add_trial(_frozen(plan.space, values, TrialState.RUNNING))
        asked = study.ask({key: kind.distribution() for key, kind in plan.space.kinds.items()})
    return {key: kind.from_optuna(asked.params[key]) for key, kind in plan.space.kinds.items()}


def study_of(space: Space, results: Mapping[int, Result], **options: Any) -> optuna.Study:
    """An Optuna study that holds the results, in the order of their numbers; the objective is maximised."""
    study = optuna.create_study(direction="maximize", **options)
    for _, result in sorted(results.items()):
        state = STATES[result.state]
        value = result.objective if state is TrialState.COMPLETE else None
        curve = dict(result.curve) if state is TrialState.PRUNED else {}
        study.add_trial(_frozen(space, result.values, state, value, curve))
    return study


def _frozen(
    space: Space,
    values: Values,
    state: TrialState,
    value: float | None = None,
    curve: Mapping[int, float] | None = None,
) -> FrozenTrial:
    return optuna.trial.create_trial(
        state=state,
        value=value,
        params={key: kind.to_optuna(values[key]) for key, kind in space.kinds.items()},
        distributions={key: kind.distribution() for key, kind in space.kinds.items()},
        intermediate_values=dict(curve or {}),
    )
