"""What is checked of a sweep before anything starts, beside its space: all problems at once."""

from __future__ import annotations

from stego_dist.data.manifest import ShardSet
from stego_dist.errors import ConfigError
from stego_dist.jobs.sweep.plan import Plan
from stego_dist.jobs.sweep.search import known_values
from stego_dist.jobs.sweep.space import with_values

SHOWN = 10
"""Impossible trials that are listed."""


def check(plan: Plan) -> None:
    """Raise ConfigError that lists what a sweep can't do, UserError for a shard set that is not there."""
    problems = _contradictions(plan) + _missing(plan)
    if not problems:
        problems = _impossible_trials(plan)
    if problems:
        raise ConfigError("\n".join(problems))


def _contradictions(plan: Plan) -> list[str]:
    problems = []
    t = plan.base.train
    if plan.search == "optuna" and plan.space.grid:
        problems.append(
            f"--search optuna chooses values itself, but {', '.join(plan.space.grid)} is a grid; make it a choice"
        )
    if plan.early_stop == "asha" and not t.validation_interval:
        problems.append("train.validate_every=0: --early-stop asha looks at validations; set it to a number of steps")
    if plan.early_stop == "asha" and not 1 <= plan.grace <= t.steps:
        problems.append(f"--grace {plan.grace}: expected 1 to train.steps={t.steps}")
    if plan.early_stop == "asha" and plan.reduction <= 1:
        problems.append(f"--reduction {plan.reduction:g}: expected a number above 1")
    if plan.base.groups % plan.processes:
        problems.append(
            f"--processes {plan.processes}: {plan.base.groups} group(s) of images (train.batch_size / loss.group_size) "
            "can't be shared by so many"
        )
    return problems


def _missing(plan: Plan) -> list[str]:
    """What the objective needs of the evaluation split; the label-free score looks at training images."""
    name = plan.base.data.eval_split
    shard_set = ShardSet.open(plan.base.data.shards, plan.base.data.storage)
    if plan.uses_labels and not (name in shard_set.splits and shard_set.split(name).labelled):
        return [f"--objective {plan.objective} needs labels, which split {name} of {shard_set.root} has not"]
    return []


def _impossible_trials(plan: Plan) -> list[str]:
    """Values that are impossible together, where they are known before."""
    problems = []
    for n, values in enumerate(known_values(plan) or ()):
        try:
            with_values(plan.base, values)
        except ConfigError as error:
            problems.append(f"trial {n}: {error}")
    if len(problems) > SHOWN:
        problems[SHOWN:] = [f"and {len(problems) - SHOWN} more trials"]
    return problems
